"""The short texts that the text tower learns from: words, nouns one can see, names, colors before nouns."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

from open_clip import IMAGENET_CLASSNAMES
from open_clip.tokenizer import SimpleTokenizer

from training.data import images, packages, sets
from training.data.batches import COLORS

TEMPLATES = (
    *(
        "a photo of a {}",
        "a photo of the {}",
        "a photo of {}",
        "a close-up photo of a {}",
        "a picture of a {}",
    ),
    *("an image of {}", "a drawing of a {}", "a painting of a {}", "an illustration of a {}", "a cartoon {}"),
    *("clip art of a {}", "a clipart {}", "an emoji of a {}", "{} emoji", "an icon of a {}", "{} icon"),
    *("a {}", "the {}", "one {}", "a small {}", "a nice {}", "a {} on a white background"),
)
_ADJECTIVES = (
    *("small", "big", "smiling", "happy", "sad", "angry", "old", "round", "square", "wooden", "flying"),
    *("sleeping", "cute", "hot", "cold", "golden", "silver"),
)
# files of WordNet's lexicographers, https://wordnet.princeton.edu/documentation/lexnames5wn
_SEEN = {
    "05",
    "06",
    "08",
    "13",
    "17",
    "19",
    "20",
    "25",
}  # animals, artifacts, bodies, food, objects, plants, shapes
_THINGS = {"05", "06", "13"}
_OTHERS = {"04", "07", "09", "14", "15", "18"}
_LONGEST = 120  # letters


def corpus(folder: Path, rng: random.Random) -> dict[str, float]:
    """Texts, and how often to draw each, of what `training.pictures` fetched and of WordNet."""
    found: dict[str, float] = {}
    everyday = [*IMAGENET_CLASSNAMES]
    for text, weight in _texts(folder, everyday, rng):
        clean = re.sub(r"\s+", " ", text.replace("_", " ")).strip().lower()
        if 1 < len(clean) < _LONGEST:
            found[clean] = max(found.get(clean, 0), weight)
    return found


def _texts(folder: Path, everyday: list[str], rng: random.Random) -> Iterator[tuple[str, float]]:
    for token in SimpleTokenizer().encoder:
        if re.fullmatch(r"[a-z]{2,}</w>", token):
            yield token.removesuffix("</w>"), 0.5
    for name in IMAGENET_CLASSNAMES:
        yield name, 4
    for name, others in images.keywords(folder).items():
        everyday += [name, name]
        yield name, 3
        for other in others:
            yield other, 1.5
    for found in images.training(folder):
        for place in found.places:
            yield found.captions[place].name, 2 if found.chosen.weight == 1 else 1
            for outer in found.captions[place].folders[-2:]:
                yield outer, 0.5
    things: list[str] = []
    yield from _nouns(
        packages.apt(sets.WORDS, folder / "packages") / "usr/share/wordnet/data.noun", things, rng
    )
    everyday += rng.sample(things, min(3000, len(things)))
    for _ in range(9000):
        yield f"{rng.choice([*COLORS])} {rng.choice(everyday)}", 0.7
    for _ in range(2500):
        yield f"{rng.choice(_ADJECTIVES)} {rng.choice(everyday)}", 0.7


def _nouns(file: Path, things: list[str], rng: random.Random) -> Iterator[tuple[str, float]]:
    """Nouns, some glosses; `things` takes names of things. https://wordnet.princeton.edu/documentation/wndb5wn"""
    for line in file.read_text().splitlines():
        if line.startswith("  "):  # the license
            continue
        head, gloss = line.split(" | ", 1)
        fields = head.split()
        lexicon, count = fields[1], int(fields[3], 16)
        for word in fields[4 : 4 + 2 * min(count, 2 if lexicon in _SEEN else 1) : 2]:
            if re.search(r"[(\d]", word) or (word[0].isupper() and lexicon in ("05", "20")):  # Latin names
                continue
            if lexicon in _SEEN:
                yield word, 1 if lexicon in ("05", "06", "08", "13") else 0.5
            elif lexicon in _OTHERS and rng.random() < 0.25:
                yield word, 0.3
            if lexicon in _THINGS and word.islower():
                things.append(word.replace("_", " "))
        if lexicon in _THINGS and rng.random() < 0.35:
            yield gloss.split(";")[0].strip()[:110], 0.3
