"""Captions of training pictures, and pictures changed so that a CLIP learns what captions say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.batches import COLORS, Album, color_names, hues_turned, moved, over
from training.data.words import TEMPLATES

Item = TypeVar("Item")


@dataclass(frozen=True)
class Captioned:
    """A batch to learn from."""

    images: Tensor  # (N, 3, R, R) in [0, 1]
    captions: list[str]
    names: list[str]  # what is on each: two of one name are no mistake of each other


def drawn(
    album: Album, keywords: dict[str, list[str]], count: int, size: int, rng: torch.Generator
) -> Captioned:
    """A batch: three of ten with their hues turned, with colors in captions that are the picture's."""
    numbers = album.draw(count, rng)
    images = album.read(numbers)
    turned = torch.rand(count, generator=rng) < 0.3
    images = hues_turned(images, (torch.rand(count, generator=rng) * 5 + 0.6) * turned)
    named = [
        captioned(
            album.captions[number].name, album.captions[number].folders, keywords, color, is_turned, rng
        )
        for number, color, is_turned in zip(numbers, color_names(images), turned.tolist(), strict=True)
    ]
    whole = chance(0.75, rng)
    scales, turn = ((0.45, 1.1), 0.25) if whole else ((0.95, 1.7), 0.3)
    images = moved(images, size, rng, scales=scales, turn=turn, shift=0.15)
    captions = [caption for caption, _ in named]
    grounds = []
    for place in range(count):
        color = torch.ones(3)
        if chance(0.25, rng):
            word, swatch = pick(list(COLORS.items()), rng)
            color = (torch.tensor(swatch) + 0.08 * torch.randn(3, generator=rng)).clamp(0, 1)
            if chance(0.4, rng):
                captions[place] += f" on a {word} background"
        elif chance(0.2, rng):
            color = torch.rand(3, generator=rng)
        grounds.append(color[:, None, None].expand(3, size, size))
    background = torch.stack(grounds)
    if chance(0.5, rng):  # a texture behind a third of them
        rough = [pick((2, 4, 8, 24), rng) for _ in range(2)]
        texture = torch.rand(count // 3, 3, *rough, generator=rng)
        background = background.clone()
        background[: count // 3] = F.interpolate(texture, size=(size, size), mode="bicubic").clamp(0, 1)
    shown = worn(over(images, background), rng)
    framed = [pick(TEMPLATES, rng).format(caption) if chance(0.4, rng) else caption for caption in captions]
    return Captioned(shown, framed, [name for _, name in named])


def captioned(
    name: str,
    folders: Sequence[str],
    keywords: dict[str, list[str]],
    color: str | None,
    is_turned: bool,
    rng: torch.Generator,
) -> tuple[str, str]:
    """A caption, and what is on the picture: its name, a keyword or a folder, and at times its color."""
    words = name.split()
    if any(word in COLORS for word in words):
        if is_turned:  # a red heart, turned, is a heart of another color
            words = [color or "" if word in COLORS else word for word in words]
        return (found := " ".join(filter(None, words)) or "shape"), found
    caption = name
    if folders and chance(0.25, rng):
        caption = folders[-1] if chance(0.3, rng) else f"{name} {folders[-1]}"
    elif keywords.get(name) and chance(0.3, rng):
        word = pick(keywords[name], rng)
        caption = word if chance(0.5, rng) else f"{name} {word}"
    if color and chance(0.6 if is_turned else 0.3, rng):
        caption = f"{color} {caption}"
    return caption, name


def worn(images: Tensor, rng: torch.Generator) -> Tensor:
    """Pictures (N, 3, R, R) in other light, coarser, noisy, with a part missing."""
    count, size = len(images), images.shape[-1]
    contrast = 0.7 + 0.6 * torch.rand(count, 1, 1, 1, generator=rng)
    images = (images - 0.5) * contrast + 0.5 + 0.15 * torch.randn(count, 1, 1, 1, generator=rng)
    if chance(0.35, rng):
        coarse = round(size * pick((0.31, 0.44, 0.56, 0.75), rng))
        images = F.interpolate(images, size=coarse, mode="bilinear", antialias=True)
        images = F.interpolate(images, size=size, mode="bilinear")
    noise = (
        torch.rand(count, 1, 1, 1, generator=rng) * 0.12 * (torch.rand(count, 1, 1, 1, generator=rng) < 0.5)
    )
    images = images + noise * torch.randn(images.shape, generator=rng)
    if chance(0.5, rng):
        for image in images[::3]:
            side = round(size * (0.125 + 0.25 * float(torch.rand((), generator=rng))))
            top, left = torch.randint(size - side, (2,), generator=rng).tolist()
            image[:, top : top + side, left : left + side] = torch.rand(3, 1, 1, generator=rng)
    return images.clamp(0, 1)


def chance(share: float, rng: torch.Generator) -> bool:
    """True as often as `share` of the times."""
    return bool(torch.rand((), generator=rng) < share)


def pick(items: Sequence[Item], rng: torch.Generator) -> Item:
    """One of them."""
    return items[int(torch.randint(len(items), (), generator=rng))]
