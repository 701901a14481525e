"""Crops: squares of a picture as the first notebooks cut them, alone or changed like photos in training."""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.cutouts.augmentations import Chance, affine, copied_at_once, dust, perspective, soften, tint, warp
from models.runtime.autograd import clamp_to_range
from models.runtime.batched_steps import Compute, at_once


def random_crops(
    images: Tensor,
    count: int,
    size: int,
    rng: torch.Generator,
    *,
    power: float = 1.0,
    compute: Compute = at_once,
) -> Tensor:
    """Squares of random size and place, scaled with Lanczos and bicubic filters, as in the first notebooks.

    Side: u^power · (M - m) + m, where M = min(H, W), m = min(M, size) and u is uniform (K. Crowson,
    VQGAN+CLIP notebook, 2021). Cutting and scaling are linear, so two batched matrix products do all.

    Args:
        images: (N, 3, H, W)
        count: K
        size: R, pixels
        rng: on the CPU, so that any device cuts the same.
        compute: makes the views, when all that is random is drawn.

    Returns:
        (N, K, 3, R, R) in [0, 1]
    """
    return compute(_crops, images, *copied_at_once(_places(images, count, size, rng, power), images))


def augmented_crops(
    images: Tensor,
    count: int,
    size: int,
    rng: torch.Generator,
    *,
    power: float = 1.0,
    compute: Compute = at_once,
) -> Tensor:
    """Squares as `random_crops` cuts them, then mirrored, tinted, blurred, turned, tilted and made noisy.

    The method `updated` of nerdyrodent/VQGAN-CLIP, and rkhamilton/vqgan-clip-generator's own: a flip of one
    in two; hue and saturation by 0.01 of 7 in 10; softness of 4 in 10; a turn of up to 30 degrees and a shift
    of a tenth of 8 in 10, with the border's colors around; a perspective of 0.2 of 4 in 10, with black
    around; noise of up to 0.1.

    After the crops, the random numbers are drawn in that order, of each augmentation first whether it
    applies.

    Args:
        images, count, size, rng, power, compute: as of `random_crops`.

    Returns:
        (N, K, 3, R, R), but for the noise in [0, 1]
    """
    places = _places(images, count, size, rng, power)
    chance = Chance(count, rng)
    mirror = 1 - 2 * chance.often(0.5)
    tinted = chance.often(0.7)
    hue, saturation = tinted * chance.between(-0.01, 0.01), 1 + tinted * chance.between(-0.01, 0.01)
    share = 1 - chance.often(0.4) * (1 - chance.between(0, 0.3))
    turned = chance.often(0.8)
    turn, shift = turned * chance.between(-30, 30), turned[:, None] * chance.between(-0.2, 0.2, 2)
    turns = affine(turn.deg2rad(), shift, torch.zeros_like(turn), mirror)
    tilts = perspective(chance.often(0.4)[:, None, None] * chance.between(0, 0.2, 4, 2))
    looks = torch.stack([saturation, hue, share, chance.between(0, 0.1)])
    parameters = [*places, turns, tilts, looks]
    grain = chance.grain(size, images)
    return compute(_augmented, images, *copied_at_once(parameters, images), grain)


def _crops(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return clamp_to_range(torch.einsum("kyh,nchw,kxw->nkcyx", rows, images, columns))


def _augmented(
    images: Tensor,
    rows: Tensor,
    columns: Tensor,
    turns: Tensor,
    tilts: Tensor,
    looks: Tensor,
    grain: Tensor,
) -> Tensor:
    saturation, hue, share, strength = looks
    views = tint(_crops(images, rows, columns), saturation, hue)
    return dust(warp(warp(soften(views, share), turns, "border"), tilts, "zeros"), strength, grain)


def _places(
    images: Tensor, count: int, size: int, rng: torch.Generator, power: float
) -> tuple[Tensor, Tensor]:
    """What leads from a picture's rows and columns to those of its squares: (K, R, H), (K, R, W)"""
    height, width = images.shape[2:]
    high, low = min(height, width), min(height, width, size)
    rows, columns = torch.zeros(count, size, height), torch.zeros(count, size, width)
    for k in range(count):
        side = int(torch.rand([], generator=rng) ** power * (high - low) + low)
        x = int(torch.randint(0, width - side + 1, (), generator=rng))
        y = int(torch.randint(0, height - side + 1, (), generator=rng))
        rows[k, :, y : y + side] = columns[k, :, x : x + side] = _resampling(side, size)
    return rows, columns


@lru_cache(maxsize=1024)
def _resampling(side: int, size: int) -> Tensor:
    """Lanczos prefilter, then bicubic with aligned corners, along one axis as a matrix: (size, side)"""
    basis = torch.eye(side, dtype=torch.float64)[:, None]  # (side, 1, side)
    if size < side:
        ratio = size / side
        # one-sided sample points 0, ratio, 2·ratio, … up to the window's end at 2, added up as float64
        points = torch.tensor([ratio] * math.ceil(2 / ratio + 1), dtype=torch.float64).cumsum(0) - ratio
        half = points.float()
        at = torch.cat([-half[1:].flip(0), half])[1:-1]
        window = torch.where(at.abs() < 2, torch.sinc(at) * torch.sinc(at / 2), torch.zeros_like(at))
        kernel = (window / window.sum()).double()
        pad = (len(kernel) - 1) // 2
        basis = F.conv1d(F.pad(basis, (pad, pad), "reflect"), kernel[None, None])
    scaled = F.interpolate(basis[:, :, None], (1, size), mode="bicubic", align_corners=True)
    matrix: Tensor = scaled[:, 0, 0].T.float().contiguous()
    return matrix
