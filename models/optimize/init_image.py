"""Random images that a drawing can start from."""

import math
from typing import Literal

import torch
from torch import Tensor

_CELLS = 4
"""Lattice cells of the first octave of Perlin noise, along the shorter side."""


def random_image(
    kind: Literal["pixels", "gradient", "perlin"], size: tuple[int, int], rng: torch.Generator
) -> Tensor:
    """A random image of size (H, W): (1, 3, H, W) in [0, 1], on the CPU"""
    match kind:
        case "pixels":
            return torch.rand(1, 3, *size, generator=rng)
        case "gradient":
            return _ramps(size, rng)
        case "perlin":
            octaves = [_gradient_noise(size, _CELLS << octave, rng) / (1 << octave) for octave in range(3)]
            # most of the sum lies within ±0.6: tanh spreads it over the whole range
            return torch.stack(octaves).sum(0).mul(2.5).tanh().add(1).div(2)[None]


def _ramps(size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """From one random value to another along a random direction, in each channel: (1, 3, H, W)"""
    ends, angles = torch.rand(2, 3, 1, 1, generator=rng), torch.rand(3, 1, 1, generator=rng) * 2 * math.pi
    down, right = (torch.linspace(-1, 1, side) for side in size)
    along = angles.cos() * right + angles.sin() * down[:, None]
    along = along / along.abs().amax((1, 2), keepdim=True)
    return torch.lerp(ends[0], ends[1], (along + 1) / 2)[None]


def _gradient_noise(size: tuple[int, int], cells: int, rng: torch.Generator) -> Tensor:
    """Perlin's noise in three channels, about ±0.7 at most: (3, H, W)

    A random direction at each corner of a lattice, and the four corners' slopes blended with a smooth curve
    (K. Perlin, Improving Noise, SIGGRAPH 2002).

    Args:
        cells: of the lattice, along the shorter side.
    """
    places = [(torch.arange(side) + 0.5) * cells / min(size) for side in size]
    corners = [int(place[-1]) + 2 for place in places]
    angles = torch.rand(3, *corners, generator=rng) * 2 * math.pi
    (top, left), (down, right) = ([p.long() for p in places], [p.frac() for p in places])
    down = down[:, None]

    def slope(below: int, beside: int) -> Tensor:
        angle = angles[:, (top + below)[:, None], left + beside]
        return angle.cos() * (right - beside) + angle.sin() * (down - below)

    across, along = (t**3 * (t * (t * 6 - 15) + 10) for t in (right, down))
    upper, lower = (torch.lerp(slope(below, 0), slope(below, 1), across) for below in (0, 1))
    return torch.lerp(upper, lower, along)
