"""Cutouts: the views of a picture that CLIP is shown at each step.

Every method shows the same views of all pictures of a batch, and draws all that is random from one generator.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.drawing import clamp_to_range
from models.options import DrawingOptions

Cutouts = Callable[[Tensor, int], Tensor]
"""The same views of each picture: (N, 3, H, W) and R -> (N, K, 3, R, R)"""


def cutouts_of(options: DrawingOptions, rng: torch.Generator) -> Cutouts:
    """The views that a request asks for."""
    match options.cutout_method:
        case "original":
            return lambda images, size: random_crops(
                images, options.cutouts, size, rng, power=options.cut_power
            )
        case "views":
            return lambda images, size: random_views(images, options.cutouts, size, rng, whole=options.whole)
        case method:
            raise NotImplementedError(method)


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
    grain = normal(count, 3, size, size) * uniform(count, 1, 1, 1) * noise

    number, _, height, width = images.shape
    # the sides of the picture fill the square that CLIP reads; a fourth channel says where there is picture
    fit = torch.tensor([max(height, width) / width, max(height, width) / height])
    places = F.affine_grid(maps * fit[None, :, None], [count, 3, size, size], align_corners=False).to(images)
    sheet = torch.cat([images, torch.ones_like(images[:, :1])], 1)
    sheet = sheet[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)  # (N * K, 4, H, W)
    seen = F.grid_sample(sheet, places.repeat(number, 1, 1, 1), align_corners=False)
    seen = seen.view(number, count, 4, size, size)
    views = seen[:, :, :3] + (1 - seen[:, :, 3:]) * paper.to(images)
    views = (views - 0.5) * contrast.to(images) + brightness.to(images) + grain.to(images)
    return views.clamp(0, 1)


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
