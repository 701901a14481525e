"""Filters: what is done to a picture before it is looked at."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.runtime.autograd import straight_through


def colors_of(names: Sequence[str], device: torch.device) -> Tensor:
    """Colors as #rrggbb: (P, 3) in [0, 1]"""
    return torch.tensor([list(bytes.fromhex(name[1:])) for name in names], device=device).float().div(255)


def nearest_colors(image: Tensor, palette: Tensor) -> Tensor:
    """Each place's nearest color by Euclidean distance in RGB: (N, 3, H, W), (P, 3) -> (N, 3, H, W)

    One color after the other, so that memory does not grow with the palette.
    """
    nearest, least = torch.empty_like(image), torch.full_like(image[:, :1], torch.inf)
    with torch.no_grad():
        for color in palette[:, :, None, None]:
            distance = (image - color).square().sum(1, keepdim=True)
            nearest = torch.where(distance < least, color, nearest)
            least = torch.minimum(distance, least)
    return nearest


def in_palette(image: Tensor, palette: Tensor) -> Tensor:
    """The picture in the palette's colors; gradients pass as if it were not: (N, 3, H, W) -> (N, 3, H, W)"""
    return straight_through(nearest_colors(image, palette), image)


def rolled(image: Tensor, rng: torch.Generator) -> Tensor:
    """Shifted by a random way, and what leaves on one side comes in on the other: (N, C, H, W)

    Args:
        rng: on the CPU.
    """
    shifts = [int(torch.randint(side, (), generator=rng)) for side in image.shape[2:]]
    return image.roll(shifts, (2, 3))
