"""What the demo models are measured by: sets that none was trained on, and six photos of packages."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import skimage.data
import torch
from open_clip import IMAGENET_CLASSNAMES
from PIL import Image
from sklearn.datasets import load_sample_image

from models.clip import ClipEncoder
from models.clip.zero_shot import similarity
from models.networks.vqgan.vqgan_model import Vqgan
from training.data import images
from training.evaluate.encode import embeddings, reconstruction, texts
from training.evaluate.measures import Floats, Row, accuracy, recall
from training.nets import trunk

_ICON = ("{label}", "a picture of a {label}", "a {label} icon", "a photo of a {label}")
_PHOTO = ("{label}", "a photo of a {label}")
_COARSE = {
    "animals/birds": "bird",
    "animals/fish": "fish",
    "animals/mammals": "mammal animal",
    "animals/insects": "insect",
    "animals/reptiles": "reptile",
    "food/fruit": "fruit",
    "food/vegetables": "vegetable",
    "vehicles": "vehicle",
    "plants/flowers": "flower",
    "plants/trees": "tree",
    "hobbies/music": "musical instrument",
    "clothes": "clothes",
    "space": "outer space",
    "household": "household object",
}
"""Folders of Tux Paint's photos, and what is on them."""


def of_clip(clip: ClipEncoder, folder: Path) -> list[Row]:
    """Zero-shot accuracy on icons and photos, with names that training has and with others."""
    icons = images.held_out(folder, "openmoji")
    known, new = _names(folder, icons)
    rows = []
    scores = _scores(clip, icons, known)
    right = np.arange(len(known))
    rows += [("OpenMoji, right of 100 names", accuracy(scores[:100, :100], right[:100]))]
    rows += [(f"OpenMoji, right of {len(known):,} names", accuracy(scores, right))]
    rows += [("  among the first five", accuracy(scores, right, 5))]
    rows += [(f"OpenMoji, picture for a name, first of {len(known):,}", recall(scores.T, right))]
    rows += [("  among the first five", recall(scores.T, right, 5))]
    scores, right = _scores(clip, icons, new), np.arange(len(new))
    rows += [(f"OpenMoji, right of {len(new)} names that training has not", accuracy(scores, right))]
    rows += [("  among the first five", accuracy(scores, right, 5))]

    stamps = images.held_out(folder, "tuxpaint")
    photos = [place for place in stamps.places if stamps.captions[place].is_photo]
    seen = embeddings(clip, _on_white(stamps, photos))
    labels = sorted({stamps.captions[place].name for place in photos})
    right = np.array([labels.index(stamps.captions[place].name) for place in photos])
    scores = similarity(seen, texts(clip, labels, _PHOTO))
    rows += [(f"Tux Paint photos ({len(photos)}), right of {len(labels)} captions", accuracy(scores, right))]
    rows += [("  among the first five", accuracy(scores, right, 5))]
    coarse = [_coarse(stamps.captions[place].folders) for place in photos]
    some = [number for number, label in enumerate(coarse) if label is not None]
    labels = list(_COARSE.values())
    right = np.array([labels.index(label) for label in coarse if label is not None])
    scores = similarity(seen[some], texts(clip, labels, _PHOTO))
    rows += [(f"Tux Paint photos ({len(some)}), right of {len(labels)} kinds", accuracy(scores, right))]

    rows += _as_classified(clip, list(_on_white(stamps, photos)))

    shown = _photos()
    scores = similarity(embeddings(clip, shown.values()), texts(clip, list(shown), _PHOTO))
    found = [
        (f"photo of {name}", list(shown)[best]) for name, best in zip(shown, scores.argmax(1), strict=True)
    ]
    return [(name, f"{value:.1%}") for name, value in rows] + found


def of_vqgan(vqgan: Vqgan, folder: Path, sizes: Sequence[int] = (96, 128)) -> list[Row]:
    """Reconstructions of 150 icons and 150 photos."""
    rows = []
    for name in ("openmoji", "tuxpaint"):
        found = images.held_out(folder, name)
        chosen = [place for place in found.places if name == "openmoji" or found.captions[place].is_photo]
        chosen = chosen[:: max(1, len(chosen) // 150)][:150]
        for size in sizes:
            for measure, value in reconstruction(vqgan, _on_white(found, chosen, margin=0), size):
                rows.append((f"{name}, {size} pixels: {measure}", value))
    return rows


def _as_classified(clip: ClipEncoder, photos: list[Image.Image]) -> list[tuple[str, float]]:
    """How often a photo's first name of ImageNet's 1,000 is the one that EfficientNet-lite0 itself says.

    Nothing, if that is not installed.
    """
    try:
        classifier = trunk.load()
    except trunk.PackageNotInstalled:
        return []
    pixels = torch.from_numpy(np.stack([clip.preprocess(photo) for photo in photos]))
    with torch.inference_mode():
        said = [classifier(some.float() / 127.5 - 1).softmax(-1) for some in torch.split(pixels, 32)]
    sure, right = (found.numpy() for found in torch.cat(said).max(1))
    names = texts(clip, [name.lower() for name in IMAGENET_CLASSNAMES], _PHOTO)
    scores = similarity(embeddings(clip, photos), names)
    kept = sure > 0.5
    rows = [
        ("  first of ImageNet's 1,000 names as its classifier", accuracy(scores, right)),
        ("  among the first five", accuracy(scores, right, 5)),
    ]
    if kept.any():
        rows += [(f"  first, of the {kept.sum()} that it is sure of", accuracy(scores[kept], right[kept]))]
    return rows


def _names(folder: Path, icons: images.Pictures) -> tuple[list[int], list[int]]:
    """Places of a thousand icons whose names training has, and of 200 others; no name twice, no flags."""
    taught = {
        caption.name
        for found in images.training(folder)
        if found.chosen.name in ("noto", "twemoji", "fluent-emoji")
        for caption in found.captions
    }
    firsts = {icons.captions[place].name: place for place in reversed(icons.places)}
    places = sorted((place, name) for name, place in firsts.items())
    known = [place for place, name in places if name in taught and not name.startswith("flag")]
    new = [place for place, name in places if name not in taught and "flag" not in name]
    rng = random.Random(1)
    rng.shuffle(known)
    rng.shuffle(new)
    return known[:1000], new[:200]


def _scores(clip: ClipEncoder, icons: images.Pictures, places: list[int]) -> Floats:
    labels = [icons.captions[place].name for place in places]
    seen = embeddings(clip, _on_white(icons, places))
    return similarity(seen, texts(clip, labels, _ICON))


def _on_white(found: images.Pictures, places: list[int], margin: int = 6) -> Iterator[Image.Image]:
    """Pictures on white, 128 pixels wide, a margin around them."""
    inner = images.SIDE - 2 * margin
    for place in places:
        pixels = images.on_white(found.pixels[place][None])[0]
        image = Image.fromarray((pixels * 255 + 0.5).astype(np.uint8))
        square = Image.new("RGB", (images.SIDE, images.SIDE), "white")
        square.paste(image.resize((inner, inner), Image.Resampling.BILINEAR), (margin, margin))
        yield square


def _coarse(folders: tuple[str, ...]) -> str | None:
    place = "/".join(folders)
    return next((label for start, label in _COARSE.items() if place.startswith(start)), None)


def _photos() -> dict[str, Image.Image]:
    """Photos that scikit-image and scikit-learn bring, by what is on them."""
    found = {
        "astronaut": skimage.data.astronaut(),
        "cat": skimage.data.chelsea(),
        "coffee": skimage.data.coffee(),
        "rocket": skimage.data.rocket(),
        "temple": load_sample_image("china.jpg"),
        "flower": load_sample_image("flower.jpg"),
    }
    return {name: Image.fromarray(pixels) for name, pixels in found.items()}
