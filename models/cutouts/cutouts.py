"""Cutouts: the views of a picture that CLIP is shown at each step.

Every method shows the same views of all pictures of a batch, and draws all that is random from one generator.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from models.cutouts.augmentations import (
    Chance,
    Padding,
    affine,
    blot,
    copied_at_once,
    dust,
    perspective,
    sample,
    scaling,
    shade,
    tint,
    warp,
)
from models.cutouts.crops import augmented_crops, random_crops
from models.requests.options import DrawingOptions
from models.runtime.batched_steps import Compute, at_once

Cutouts = Callable[[Tensor, int, float], Tensor]
"""The same views of each picture: (N, 3, H, W), R and the share of steps that are done -> (N, K, 3, R, R)"""


_SMALLEST = 0.55  # side of the smallest crop of `random_views`, as a share of the image's


def cutouts_of(options: DrawingOptions, rng: torch.Generator, compute: Compute = at_once) -> Cutouts:
    """The views that a request asks for.

    Args:
        compute: makes them, when all that is random is drawn.
    """

    def views(images: Tensor, size: int, done: float = 0.0) -> Tensor:
        count = options.cutouts_at(done)
        match options.cutout_method:
            case "original":
                return random_crops(images, count, size, rng, power=options.cut_power, compute=compute)
            case "views":
                return random_views(images, count, size, rng, whole=options.whole, compute=compute)
            case "updated":
                return augmented_crops(images, count, size, rng, power=options.cut_power, compute=compute)
            case "pooling":
                return pooled_views(images, count, size, rng, compute=compute)
            case "pixray":
                return near_and_wide_views(images, count, size, rng, compute=compute)

    return views


def pooled_views(
    images: Tensor, count: int, size: int, rng: torch.Generator, *, compute: Compute = at_once
) -> Tensor:
    """The whole picture, pooled to a square, then turned, tilted, tinted, blotted and made noisy.

    The method `latest` of nerdyrodent/VQGAN-CLIP, each of 7 in 10: a turn of up to 15 degrees, a shift of a
    tenth and a shear of 5 degrees, with black around; a perspective of 0.7, likewise; brightness, contrast,
    saturation and hue by 0.1, in this order; one black box on all views at once; noise of up to 0.1.

    The random numbers are drawn in that order, of each augmentation first whether it applies.

    Args:
        images: (N, 3, H, W) in [0, 1]
        count: K
        size: R, pixels
        rng: on the CPU.

    Returns:
        (N, K, 3, R, R), but for the noise in [0, 1]
    """
    chance = Chance(count, rng)
    turned = chance.often(0.7)
    turn, shift = turned * chance.between(-15, 15), turned[:, None] * chance.between(-0.2, 0.2, 2)
    shear = turned * chance.between(-5, 5)
    turns = affine(turn.deg2rad(), shift, shear.deg2rad(), torch.ones_like(turn))
    tilts = perspective(chance.often(0.7)[:, None, None] * chance.between(0, 0.7, 4, 2))
    changed = chance.often(0.7)
    by = [changed * chance.between(-0.1, 0.1) for _ in range(4)]
    tints = torch.stack([by[0], 1 + by[1], 1 + by[2], by[3]])
    parameters = [turns, tilts, tints, _box(size, rng), chance.between(0, 0.1)]
    grain = chance.grain(size, images)
    return compute(_pooled_and_changed, images, *copied_at_once(parameters, images), grain)


def near_and_wide_views(
    images: Tensor,
    count: int,
    size: int,
    rng: torch.Generator,
    *,
    near: float = 0.6,
    compute: Compute = at_once,
) -> Tensor:
    """Tilted parts of the picture, and views of the whole in its own shape on gray, all tinted and noisy.

    Pixray's method. Near: a perspective of 0.4 of 7 in 10, then a part of 0.25 to 0.95 of the area, 0.85 to
    1.2 times as wide as high; around it all views of a step mirror the picture, or continue its border. Wide:
    95 in 100 of a square, or another picture fitted into the view, 0.9 to 1 times as large, anywhere; then a
    perspective of 0.2 of 7 in 10. Both: hue and saturation by 0.1 of 8 in 10; noise of up to 0.1. The picture
    is pooled first, as in `pooled_views`. What Pixray does next, stretching all views of a step together to
    [0, 1], is left out: no view should change with its neighbors.

    The random numbers are drawn in that order, of each augmentation first whether it applies; what all views
    of a step share is drawn after the near views' parts: one to mirror, below a half, and the gray.

    Args:
        images: (N, 3, H, W) in [0, 1]
        count: K
        size: R, pixels
        rng: on the CPU.
        near: share of near views; they come first.

    Returns:
        (N, K, 3, R, R), but for the noise in [0, 1]
    """
    height, width = images.shape[2:]
    sides = torch.tensor([width, height], dtype=torch.float64) / min(width, height)
    chance = Chance(round(count * near), rng)
    tilts = perspective(chance.often(0.7)[:, None, None] * chance.between(0, 0.4, 4, 2))
    area, log_ratio = chance.between(0.25, 0.95), chance.between(math.log(0.85), math.log(1.2))
    ratio = torch.stack([log_ratio.exp(), (-log_ratio).exp()], 1)
    share = ((area[:, None] * sides.prod() * ratio).sqrt() / sides).clamp(max=1)
    parts = tilts @ scaling(share, (1 - share) * chance.between(-1, 1, 2))
    mirrors, gray = torch.rand(2, generator=rng)

    chance = Chance(count - len(parts), rng)
    if width == height:
        shown, room = torch.full((chance.count, 2), 0.95, dtype=torch.float64), torch.full([2], 0.05)
    else:
        shown = chance.between(0.9, 1)[:, None] * sides / sides.max()
        room = 1 - sides / sides.max()
    wholes = scaling(1 / shown, -chance.between(-1, 1, 2) * room / shown)
    wholes = wholes @ perspective(chance.often(0.7)[:, None, None] * chance.between(0, 0.2, 4, 2))

    chance = Chance(count, rng)
    tinted = chance.often(0.8)
    hue, saturation = tinted * chance.between(-0.1, 0.1), 1 + tinted * chance.between(-0.1, 0.1)
    parameters = [parts, wholes, gray, torch.stack([saturation, hue, chance.between(0, 0.1)])]
    grain = chance.grain(size, images)
    make = _mirrored if mirrors < 0.5 else _continued
    return compute(make, images, *copied_at_once(parameters, images), grain)


def random_views(
    images: Tensor,
    count: int,
    size: int,
    rng: torch.Generator,
    *,
    whole: float = 0.7,
    noise: float = 0.08,
    compute: Compute = at_once,
) -> Tensor:
    """Turned and mirrored crops, and a share of views of the whole picture from further away, on paper.

    The views of the whole keep CLIP from asking for one object in every crop. Brightness, contrast and noise
    differ from view to view. One `grid_sample` makes all of them.

    Args:
        images: (N, 3, H, W) in [0, 1]
        count: K
        size: R, pixels
        whole: share of views that show all of the picture.
        noise: highest standard deviation of the noise.
        compute: makes the views, when all that is random is drawn.

    Returns:
        (N, K, 3, R, R) in [0, 1]
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    full = round(count * whole)
    extent = torch.cat([uniform(full) * 0.35 + 1, uniform(count - full) * (1 - _SMALLEST) + _SMALLEST])
    angle, mirror = normal(count) * 0.12, torch.where(uniform(count) < 0.5, -1.0, 1.0)
    room = (1 - extent).clamp(min=0) + 0.08
    cos, sin = extent * torch.cos(angle), extent * torch.sin(angle)
    shift = (uniform(count, 2) * 2 - 1) * room[:, None]
    maps = torch.stack([cos * mirror, -sin, shift[:, 0], sin * mirror, cos, shift[:, 1]], 1).view(count, 2, 3)
    paper = torch.where(uniform(count, 1, 1, 1) < 0.7, torch.ones(count, 3, 1, 1), uniform(count, 3, 1, 1))
    contrast = 0.85 + 0.3 * uniform(count, 1, 1, 1)
    brightness = 0.5 + 0.06 * normal(count, 1, 1, 1)
    grain = _grain(count, size, rng, images.device)
    strength = uniform(count, 1, 1, 1) * noise

    height, width = images.shape[2:]
    # the sides of the picture fill the square that CLIP reads; a fourth channel says where there is picture
    fit = torch.tensor([max(height, width) / width, max(height, width) / height])
    parameters = [maps * fit[None, :, None], paper, contrast, brightness, strength]
    return compute(_turned, images, *copied_at_once(parameters, images), grain)


def _pooled_and_changed(
    images: Tensor, turns: Tensor, tilts: Tensor, tints: Tensor, box: Tensor, strength: Tensor, grain: Tensor
) -> Tensor:
    pooled = _pooled(images, grain.shape[-1])[:, None]
    views = warp(warp(pooled, turns, "zeros"), tilts, "zeros")
    return dust(blot(tint(shade(views, *tints[:2]), *tints[2:]), box), strength, grain)


def _near_and_wide(
    images: Tensor,
    parts: Tensor,
    wholes: Tensor,
    gray: Tensor,
    looks: Tensor,
    grain: Tensor,
    *,
    around: Padding,
) -> Tensor:
    saturation, hue, strength = looks
    pooled = _pooled(images, grain.shape[-1])[:, None]
    near_views = warp(pooled, parts, around)
    seen = warp(torch.cat([pooled, torch.ones_like(pooled[:, :, :1])], 2), wholes, "zeros")
    wide_views = seen[:, :, :3] + gray * (1 - seen[:, :, 3:])
    return dust(tint(torch.cat([near_views, wide_views], 1), saturation, hue), strength, grain)


_mirrored = partial(_near_and_wide, around="reflection")
_continued = partial(_near_and_wide, around="border")


def _turned(
    images: Tensor,
    maps: Tensor,
    paper: Tensor,
    contrast: Tensor,
    brightness: Tensor,
    strength: Tensor,
    grain: Tensor,
) -> Tensor:
    places = F.affine_grid(maps, list(grain.shape), align_corners=False)
    sheet = torch.cat([images, torch.ones_like(images[:, :1])], 1)
    seen = sample(sheet, places, align_corners=False)
    views = seen[:, :, :3] + (1 - seen[:, :, 3:]) * paper
    return ((views - 0.5) * contrast + brightness + grain * strength).clamp(0, 1)


def _grain(count: int, size: int, rng: torch.Generator, device: torch.device) -> Tensor:
    """Normal noise for views: (K, 3, R, R). Other devices than the CPU draw it themselves, by a seed."""
    if device.type != "cpu":
        seed = int(torch.randint(1 << 62, (), generator=rng))
        rng = torch.Generator(device).manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=rng, device=rng.device)


def _box(size: int, rng: torch.Generator) -> Tensor:
    """A box of 0.1 to 0.4 of a view's area, 0.3 to 3.3 times as high as wide, in 7 of 10; else an empty one.

    After Zhong et al., Random Erasing Data Augmentation, https://arxiv.org/abs/1708.04896

    Returns:
        its left, top, right and bottom in pixels (4,)
    """
    applied, area, flat, high, is_high, across, down = torch.rand(7, generator=rng).tolist()
    area = (0.1 + 0.3 * area) * size * size
    ratio = 1 + 2.3 * high if is_high > 0.5 else 0.3 + 0.7 * flat
    height, width = (min(size, max(1, round(math.sqrt(side)))) for side in (area * ratio, area / ratio))
    left, top = int(across * (size - width + 1)), int(down * (size - height + 1))
    box = torch.tensor([left, top, left + width, top + height])
    return box if applied < 0.7 else torch.zeros_like(box)


def _pooled(images: Tensor, size: int) -> Tensor:
    """Midway between the means and the maxima of the places that come together: (N, 3, size, size)"""
    return (F.adaptive_avg_pool2d(images, size) + F.adaptive_max_pool2d(images, size)) / 2
