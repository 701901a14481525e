"""Cutouts: the views of a picture that CLIP is shown at each step.

Every method shows the same views of all pictures of a batch, and draws all that is random from one generator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.augmentations import (
    affine,
    blot,
    copied_at_once,
    dust,
    perspective,
    sample,
    scaling,
    shade,
    soften,
    tint,
    warp,
)
from models.drawing import clamp_to_range
from models.options import DrawingOptions

Cutouts = Callable[[Tensor, int, float], Tensor]
"""The same views of each picture: (N, 3, H, W), R and the share of steps that are done -> (N, K, 3, R, R)"""


def cutouts_of(options: DrawingOptions, rng: torch.Generator) -> Cutouts:
    """The views that a request asks for."""

    def views(images: Tensor, size: int, done: float = 0.0) -> Tensor:
        count = options.cutouts_at(done)
        match options.cutout_method:
            case "original":
                return random_crops(images, count, size, rng, power=options.cut_power)
            case "views":
                return random_views(images, count, size, rng, whole=options.whole)
            case "updated":
                return augmented_crops(images, count, size, rng, power=options.cut_power)
            case "pooling":
                return pooled_views(images, count, size, rng)
            case "pixray":
                return near_and_wide_views(images, count, size, rng)

    return views


def random_crops(
    images: Tensor, count: int, size: int, rng: torch.Generator, *, power: float = 1.0
) -> Tensor:
    """Squares of random size and place, scaled with Lanczos and bicubic filters, as in the first notebooks.

    Side: u^power · (M - m) + m, where M = min(H, W), m = min(M, size) and u is uniform (K. Crowson,
    VQGAN+CLIP notebook, 2021). Cutting and scaling are linear, so two batched matrix products do all.

    Args:
        images: (N, 3, H, W)
        count: K
        size: R, pixels
        rng: on the CPU, so that any device cuts the same.

    Returns:
        (N, K, 3, R, R) in [0, 1]
    """
    height, width = images.shape[2:]
    high, low = min(height, width), min(height, width, size)
    rows, columns = torch.zeros(count, size, height), torch.zeros(count, size, width)
    for k in range(count):
        side = int(torch.rand([], generator=rng) ** power * (high - low) + low)
        x = int(torch.randint(0, width - side + 1, (), generator=rng))
        y = int(torch.randint(0, height - side + 1, (), generator=rng))
        rows[k, :, y : y + side] = columns[k, :, x : x + side] = _resampling(side, size)
    rows, columns = rows.to(images), columns.to(images)
    return clamp_to_range(torch.einsum("kyh,nchw,kxw->nkcyx", rows, images, columns))


def augmented_crops(
    images: Tensor, count: int, size: int, rng: torch.Generator, *, power: float = 1.0
) -> Tensor:
    """Squares as `random_crops` cuts them, then mirrored, tinted, blurred, turned, tilted and made noisy.

    The method `updated` of nerdyrodent/VQGAN-CLIP, and rkhamilton/vqgan-clip-generator's own: a flip of one
    in two; hue and saturation by 0.01 of 7 in 10; softness of 4 in 10; a turn of up to 30 degrees and a shift
    of a tenth of 8 in 10, with the border's colors around; a perspective of 0.2 of 4 in 10, with black
    around; noise of up to 0.1.

    After the crops, the random numbers are drawn in that order, of each augmentation first whether it
    applies.

    Args:
        images, count, size, rng, power: as of `random_crops`.

    Returns:
        (N, K, 3, R, R), but for the noise in [0, 1]
    """
    views = random_crops(images, count, size, rng, power=power)
    chance = _Chance(count, rng)
    mirror = 1 - 2 * chance.often(0.5)
    tinted = chance.often(0.7)
    hue, saturation = tinted * chance.between(-0.01, 0.01), 1 + tinted * chance.between(-0.01, 0.01)
    share = 1 - chance.often(0.4) * (1 - chance.between(0, 0.3))
    turned = chance.often(0.8)
    turn, shift = turned * chance.between(-30, 30), turned[:, None] * chance.between(-0.2, 0.2, 2)
    turns = affine(turn.deg2rad(), shift, torch.zeros_like(turn), mirror)
    tilts = perspective(chance.often(0.4)[:, None, None] * chance.between(0, 0.2, 4, 2))
    parameters = [saturation, hue, share, turns, tilts, chance.between(0, 0.1)]
    saturation, hue, share, turns, tilts, strength = copied_at_once(parameters, images)
    views = tint(views, saturation, hue)
    views = warp(warp(soften(views, share), turns, "border"), tilts, "zeros")
    return dust(views, strength, chance.seed())


def pooled_views(images: Tensor, count: int, size: int, rng: torch.Generator) -> Tensor:
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
    chance = _Chance(count, rng)
    turned = chance.often(0.7)
    turn, shift = turned * chance.between(-15, 15), turned[:, None] * chance.between(-0.2, 0.2, 2)
    shear = turned * chance.between(-5, 5)
    turns = affine(turn.deg2rad(), shift, shear.deg2rad(), torch.ones_like(turn))
    tilts = perspective(chance.often(0.7)[:, None, None] * chance.between(0, 0.7, 4, 2))
    changed = chance.often(0.7)
    by = [changed * chance.between(-0.1, 0.1) for _ in range(4)]
    tints = torch.stack([by[0], 1 + by[1], 1 + by[2], by[3]])
    parameters = [turns, tilts, tints, _box(size, rng), chance.between(0, 0.1)]
    turns, tilts, tints, box, strength = copied_at_once(parameters, images)
    views = warp(warp(_pooled(images, size)[:, None], turns, "zeros"), tilts, "zeros")
    return dust(blot(tint(shade(views, *tints[:2]), *tints[2:]), box), strength, chance.seed())


def near_and_wide_views(
    images: Tensor, count: int, size: int, rng: torch.Generator, *, near: float = 0.6
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
    chance = _Chance(round(count * near), rng)
    tilts = perspective(chance.often(0.7)[:, None, None] * chance.between(0, 0.4, 4, 2))
    area, log_ratio = chance.between(0.25, 0.95), chance.between(math.log(0.85), math.log(1.2))
    ratio = torch.stack([log_ratio.exp(), (-log_ratio).exp()], 1)
    share = ((area[:, None] * sides.prod() * ratio).sqrt() / sides).clamp(max=1)
    parts = tilts @ scaling(share, (1 - share) * chance.between(-1, 1, 2))
    mirrors, gray = torch.rand(2, generator=rng).tolist()

    chance = _Chance(count - len(parts), rng)
    if width == height:
        shown, room = torch.full((chance.count, 2), 0.95, dtype=torch.float64), torch.full([2], 0.05)
    else:
        shown = chance.between(0.9, 1)[:, None] * sides / sides.max()
        room = 1 - sides / sides.max()
    wholes = scaling(1 / shown, -chance.between(-1, 1, 2) * room / shown)
    wholes = wholes @ perspective(chance.often(0.7)[:, None, None] * chance.between(0, 0.2, 4, 2))

    chance = _Chance(count, rng)
    tinted = chance.often(0.8)
    hue, saturation = tinted * chance.between(-0.1, 0.1), 1 + tinted * chance.between(-0.1, 0.1)
    parameters = [parts, wholes, saturation, hue, chance.between(0, 0.1)]
    parts, wholes, saturation, hue, strength = copied_at_once(parameters, images)
    pooled = _pooled(images, size)[:, None]
    near_views = warp(pooled, parts, "reflection" if mirrors < 0.5 else "border")
    seen = warp(torch.cat([pooled, torch.ones_like(pooled[:, :, :1])], 2), wholes, "zeros")
    wide_views = seen[:, :, :3] + gray * (1 - seen[:, :, 3:])
    views = tint(torch.cat([near_views, wide_views], 1), saturation, hue)
    return dust(views, strength, chance.seed())


def random_views(
    images: Tensor,
    count: int,
    size: int,
    rng: torch.Generator,
    *,
    whole: float = 0.7,
    smallest: float = 0.55,
    noise: float = 0.08,
) -> Tensor:
    """Turned and mirrored crops, and a share of views of the whole picture from further away, on paper.

    The views of the whole keep CLIP from asking for one object in every crop. Brightness, contrast and noise
    differ from view to view. One `grid_sample` makes all of them.

    Args:
        images: (N, 3, H, W) in [0, 1]
        count: K
        size: R, pixels
        whole: share of views that show all of the picture.
        smallest: side of the smallest crop, of the picture's.
        noise: highest standard deviation of the noise.

    Returns:
        (N, K, 3, R, R) in [0, 1]
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    full = round(count * whole)
    extent = torch.cat([uniform(full) * 0.35 + 1, uniform(count - full) * (1 - smallest) + smallest])
    angle, mirror = normal(count) * 0.12, torch.where(uniform(count) < 0.5, -1.0, 1.0)
    room = (1 - extent).clamp(min=0) + 0.08
    cos, sin = extent * torch.cos(angle), extent * torch.sin(angle)
    shift = (uniform(count, 2) * 2 - 1) * room[:, None]
    maps = torch.stack([cos * mirror, -sin, shift[:, 0], sin * mirror, cos, shift[:, 1]], 1).view(count, 2, 3)
    paper = torch.where(uniform(count, 1, 1, 1) < 0.7, torch.ones(count, 3, 1, 1), uniform(count, 3, 1, 1))
    contrast = 0.85 + 0.3 * uniform(count, 1, 1, 1)
    brightness = 0.5 + 0.06 * normal(count, 1, 1, 1)
    grain = _grain(count, size, rng, images.device)
    strength = uniform(count, 1, 1, 1)

    height, width = images.shape[2:]
    # the sides of the picture fill the square that CLIP reads; a fourth channel says where there is picture
    fit = torch.tensor([max(height, width) / width, max(height, width) / height])
    parameters = [maps * fit[None, :, None], paper, contrast, brightness, strength]
    maps, paper, contrast, brightness, strength = copied_at_once(parameters, images)
    places = F.affine_grid(maps, [count, 3, size, size], align_corners=False)
    sheet = torch.cat([images, torch.ones_like(images[:, :1])], 1)
    seen = sample(sheet, places, align_corners=False)
    views = seen[:, :, :3] + (1 - seen[:, :, 3:]) * paper
    views = (views - 0.5) * contrast + brightness + grain * strength * noise
    return views.clamp(0, 1)


@dataclass(frozen=True)
class _Chance:
    """Random parameters of views, on the CPU and exact enough to invert matrices of them."""

    count: int
    rng: torch.Generator

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform: (K, *shape)"""
        return low + (high - low) * torch.rand(self.count, *shape, generator=self.rng).double()

    def often(self, share: float) -> Tensor:
        """1 of so many, else 0: (K,)"""
        return (torch.rand(self.count, generator=self.rng) < share).double()

    def seed(self) -> int:
        """A seed for a generator of the device's."""
        return int(torch.randint(1 << 62, (), generator=self.rng))


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
