"""Batches of training pictures: drawn by their sets' weights, hues turned, moved, on a background."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.data import images as pictures

COLORS = {
    "red": (0.87, 0.12, 0.15),
    "orange": (1.0, 0.55, 0.1),
    "yellow": (1.0, 0.85, 0.2),
    "green": (0.2, 0.65, 0.25),
    "blue": (0.15, 0.4, 0.9),
    "purple": (0.5, 0.2, 0.7),
    "pink": (1.0, 0.55, 0.75),
    "brown": (0.5, 0.3, 0.15),
    "black": (0.08, 0.08, 0.08),
    "white": (1.0, 1.0, 1.0),
    "gray": (0.55, 0.55, 0.55),
}
_CLEAR = 0.45  # of a picture must have a color for that to be its color


class Album:
    """All training pictures, to be drawn from by the weights of their sets.

    Attributes:
        captions: of each picture.
        vendors: of each picture, the name of its set.
        weights: (N,) of each picture.
    """

    def __init__(self, sets: list[pictures.Pictures]) -> None:
        self._files = [found.pixels for found in sets]
        self._places = [(file, place) for file, found in enumerate(sets) for place in found.places]
        self.captions = [sets[file].captions[place] for file, place in self._places]
        self.vendors = [sets[file].chosen.name for file, _ in self._places]
        self.weights = torch.tensor([float(sets[file].chosen.weight) for file, _ in self._places])

    @classmethod
    def open(cls, folder: Path, vendors: list[str] | None = None) -> "Album":
        """The pictures of a folder that `training.pictures` filled, of all vendors or some."""
        found = pictures.training(folder)
        return cls([one for one in found if vendors is None or one.chosen.name in vendors])

    def draw(self, count: int, rng: torch.Generator) -> list[int]:
        """Numbers of pictures, some perhaps more than once."""
        drawn: list[int] = torch.multinomial(self.weights, count, replacement=True, generator=rng).tolist()
        return drawn

    def read(self, numbers: list[int]) -> Tensor:
        """Pictures by number: (N, 4, 128, 128) in [0, 1], colors multiplied by their alpha."""
        places = (self._places[number] for number in numbers)
        return premultiplied(np.stack([self._files[file][place] for file, place in places]))


def premultiplied(pixels: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 4) straight alpha -> (N, 4, H, W) in [0, 1], colors multiplied by their alpha"""
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return torch.cat([values[:, :3] * values[:, 3:], values[:, 3:]], 1)


def hues_turned(images: Tensor, angles: Tensor) -> Tensor:
    """Premultiplied pictures (N, 4, H, W), colors turned about the gray axis by angles (N,), radians."""
    cosine, third = angles.cos(), (1 - angles.cos()) / 3
    sine = angles.sin() * math.sqrt(1 / 3)
    same, next_, last = cosine + third, third - sine, third + sine
    rows = [[same, next_, last], [last, same, next_], [next_, last, same]]
    turn = torch.stack([torch.stack(row, -1) for row in rows], 1)  # (N, 3, 3)
    colors = torch.einsum("nij,njhw->nihw", turn, images[:, :3]).clamp(min=0)
    return torch.cat([torch.minimum(colors, images[:, 3:]), images[:, 3:]], 1)


def moved(
    images: Tensor,
    size: int,
    rng: torch.Generator,
    *,
    scales: tuple[float, float],
    turn: float,
    shift: float,
) -> Tensor:
    """Each picture scaled, turned, shifted, mirrored half the time: (N, C, H, W) -> (N, C, size, size)

    Args:
        scales: of the picture in its square; beyond 1 it is cut.
        turn: at most, in radians.
        shift: at most, in halves of the square.
    """
    count = len(images)
    low, high = scales
    extent = 1 / (low + (high - low) * torch.rand(count, generator=rng))
    angle = (torch.rand(count, generator=rng) * 2 - 1) * turn
    mirror = torch.where(torch.rand(count, generator=rng) < 0.5, -1.0, 1.0)
    center = (torch.rand(count, 2, generator=rng) * 2 - 1) * shift
    theta = torch.stack(
        [
            torch.stack([extent * angle.cos() * mirror, -extent * angle.sin(), center[:, 0]], -1),
            torch.stack([extent * angle.sin() * mirror, extent * angle.cos(), center[:, 1]], -1),
        ],
        1,
    )  # (N, 2, 3)
    grid = F.affine_grid(theta, [count, images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def over(images: Tensor, backgrounds: Tensor | float) -> Tensor:
    """Premultiplied pictures (N, 4, H, W) on backgrounds that broadcast to (N, 3, H, W)"""
    return images[:, :3] + (1 - images[:, 3:]) * backgrounds


def color_names(images: Tensor) -> list[str | None]:
    """The color of most of each premultiplied picture (N, 4, H, W); none: it is not clear."""
    small = F.avg_pool2d(images, 4)
    alpha = small[:, 3]
    red, green, blue = (small[:, :3] / alpha.clamp(min=0.05)[:, None]).unbind(1)
    most = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    span = most - least
    width, saturation = span.clamp(min=1e-4), span / most.clamp(min=0.05)
    hue = 60 * torch.where(
        most == red,
        ((green - blue) / width) % 6,
        torch.where(most == green, (blue - red) / width + 2, (red - green) / width + 4),
    )  # degrees
    opaque = alpha > 0.5
    colored = (span > 0.22) & opaque
    brown = colored & (hue > 10) & (hue < 45) & (most < 0.62)
    colored = colored & ~brown
    reddish = (hue < 14) | (hue > 345)
    dark, light = (most < 0.25) & opaque, (least > 0.85) & opaque
    masks = {
        "brown": brown,
        "red": colored & reddish & (saturation > 0.55),
        "pink": colored & (((hue > 290) & (hue <= 345)) | (reddish & (saturation <= 0.55))),
        "orange": colored & (hue >= 14) & (hue < 40),
        "yellow": colored & (hue >= 40) & (hue < 68),
        "green": colored & (hue >= 68) & (hue < 170),
        "blue": colored & (hue >= 170) & (hue < 255),
        "purple": colored & (hue >= 255) & (hue <= 290),
        "black": dark,
        "white": light,
        "gray": (span <= 0.12) & opaque & ~dark & ~light,
    }
    shares = torch.stack(
        [mask.flatten(1).sum(1) / opaque.flatten(1).sum(1).clamp(min=1) for mask in masks.values()], 1
    )
    names = list(masks)
    return [
        names[place] if share > _CLEAR else None
        for share, place in zip(*(part.tolist() for part in shares.max(1)), strict=True)
    ]
