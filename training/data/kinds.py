"""What ImageNet's classes are besides their names: kinds by WordNet, and what their photos show, too."""

from dataclasses import dataclass
from pathlib import Path

import torch
from open_clip import IMAGENET_CLASSNAMES
from torch import Tensor

_LEAST, _MOST = 5, 420  # classes of a kind: rarer ones say little, `artifact` and above say nothing

_PEOPLE = """
    suit, academic gown, military uniform, lab coat, kimono, abaya, sarong, poncho, cloak, trench coat,
    fur coat, cardigan, T-shirt, sweatshirt, jeans, bra, bikini, miniskirt, one-piece bathing suit, swim
    trunks / shorts, hoop skirt, overskirt, gown, sock, apron, pajamas, diaper, bow tie, chain mail,
    breastplate, cuirass, bulletproof vest, crash helmet, football helmet, sunglasses, cowboy hat,
    sombrero, poke bonnet, shower cap, swimming cap, graduation cap, hair wig, lipstick, neck brace,
    mask, balaclava ski mask, gas mask or respirator, snorkel, bobsleigh, go-kart, snowmobile, unicycle,
    ski, dumbbell, barbell, balance beam, parallel bars, gymnastic horizontal bar, pole, volleyball,
    rugby ball, violin, cello, banjo, flute, harmonica, stethoscope, stretcher, stage, torch,
    bridegroom, baseball player, scuba diver
"""
SHOWN = {
    "person": frozenset(" ".join(_PEOPLE.split()).split(", ")),
    "flower": frozenset(("daisy", "rapeseed", "yellow lady's slipper", "hair clip", "plant pot", "vase")),
}
"""Names beside a class's own of what its photos show: people have no class, and flowers hardly one."""


@dataclass(frozen=True)
class Kinds:
    """Kinds of classes.

    Attributes:
        names: of the kinds.
        members: 1 where a class is of a kind: (C, K)
    """

    names: list[str]
    members: Tensor


def read(nouns: Path, classes: list[str]) -> Kinds:
    """What classes are, by the hypernyms of WordNet.

    Args:
        nouns: its `data.noun`, https://wordnet.princeton.edu/documentation/wndb5wn
        classes: synsets, such as n02123045.
    """
    words: dict[str, str] = {}
    above: dict[str, list[str]] = {}
    for line in nouns.read_text().splitlines():
        if line.startswith("  "):  # the license
            continue
        fields = line.split(" | ", 1)[0].split()
        count = int(fields[3], 16)
        pointers = fields[5 + 2 * count :]
        words[fields[0]] = fields[4].replace("_", " ").lower()
        above[fields[0]] = [pointers[place + 1] for place, sign in enumerate(pointers) if sign in ("@", "@i")]

    def all_above(synset: str) -> set[str]:
        found = set(above[synset])
        return found.union(*map(all_above, found))

    of: dict[str, list[int]] = {}
    for number, name in enumerate(classes):
        for synset in sorted(all_above(name.removeprefix("n"))):
            of.setdefault(synset, []).append(number)
    chosen = {synset: numbers for synset, numbers in of.items() if _LEAST <= len(numbers) <= _MOST}
    members = torch.zeros(len(classes), len(chosen))
    for column, numbers in enumerate(chosen.values()):
        members[numbers, column] = 1
    return Kinds([words[synset] for synset in chosen], members)


def shown() -> Tensor:
    """1 where a class of ImageNet has that name of `SHOWN`, too: (1000, K)"""
    return torch.tensor([[float(name in some) for some in SHOWN.values()] for name in IMAGENET_CLASSNAMES])
