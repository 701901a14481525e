"""Strokes: lines, curves and filled shapes, rendered differentiably, and written as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from models.runtime.autograd import straight_through

StrokeKind = Literal["line", "curve", "shape"]

POINTS: dict[StrokeKind, int] = {"line": 2, "curve": 4, "shape": 6}
"""Control points of a stroke: a line's ends; a cubic Bezier curve's; a closed quadratic B-spline's."""

_AT_ONCE = 2**19
"""Pixels in memory at once while strokes are rendered, counted once for each stroke."""

_AT_LEAST = 8
"""Strokes between two images that are kept for the backward pass."""

_REACH = 1.0
"""Scale in pixels of the sigmoid that gives an edge its gradient; the rendered edge is sharper."""

_INSIDE = 128


@dataclass(frozen=True)
class Strokes:
    """Strokes on paper, the lowest first.

    Attributes:
        points: (S, K, 2) right and down; the image spans [-1, 1].
        widths: (S,) of the pen, in shorter sides of the image; shapes are filled and have an outline.
        colors: (S, 3) in [0, 1]
        opacities: (S,) in [0, 1]
    """

    kind: StrokeKind
    points: Tensor
    widths: Tensor
    colors: Tensor
    opacities: Tensor


def rasterize(strokes: Strokes, paper: Tensor, size: tuple[int, int]) -> Tensor:
    """The image of strokes on paper, differentiable in all their tensors.

    A pixel's color comes from how far its center is from each stroke, as in the differentiable rasterizers
    of Li et al., Differentiable Vector Graphics Rasterization, SIGGRAPH Asia 2020, and Mihai and Hare,
    Differentiable Drawing and Sketching, arXiv:2103.16194. Which piece of a stroke is nearest is found
    without gradients: where it changes, the distance does not. A few strokes are in memory at once, and
    rendered again in the backward pass.

    Args:
        paper: (3,) in [0, 1]
        size: (H, W)

    Returns:
        (1, 3, H, W) in [0, 1]
    """
    height, width = size
    scale = strokes.points.new_tensor([width / 2, height / 2])
    paths = _basis(strokes.kind).to(strokes.points) @ ((strokes.points + 1) * scale)  # (S, M, 2) in pixels
    radii = strokes.widths * (min(size) / 2)
    image: Tensor = _Layers.apply(strokes.kind, size, paper, paths, radii, strokes.colors, strokes.opacities)
    return image


def svg_of(strokes: Strokes, paper: str, size: tuple[int, int]) -> str:
    """The same image as an SVG document.

    Args:
        paper: #rrggbb
        size: (H, W), in pixels
    """
    height, width = size
    scale = strokes.points.new_tensor([width / 2, height / 2])
    points = ((strokes.points + 1) * scale).tolist()
    rows = zip(
        points,
        (strokes.widths * min(size)).tolist(),
        (strokes.colors * 255).round().int().tolist(),
        strokes.opacities.tolist(),
        strict=True,
    )
    fill = ' fill="{0}"' if strokes.kind == "shape" else ""
    form = f'<path d="{{1}}" stroke="{{0}}"{fill} stroke-width="{{2:.3f}}" opacity="{{3:.4f}}"/>'
    paths = [
        form.format(f"#{red:02x}{green:02x}{blue:02x}", _path(strokes.kind, places), pen, opacity)
        for places, pen, (red, green, blue), opacity in rows
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}">',
            f'<rect width="{width}" height="{height}" fill="{paper}"/>',
            '<g fill="none" fill-rule="evenodd" stroke-linecap="round" stroke-linejoin="round">',
            *paths,
            "</g>",
            "</svg>\n",
        ]
    )


class _Layers(torch.autograd.Function):
    """Layers of a few strokes, one on top of the other, as checkpoints do it (Chen et al., arXiv:1604.06174).

    The kept tensors lie in two blocks that are allocated first: many blocks of different sizes fragment the
    heap to many times the memory in use.
    """

    @staticmethod
    def forward(ctx: Any, kind: StrokeKind, size: tuple[int, int], paper: Tensor, *parts: Tensor) -> Tensor:
        """Paper (3,), paths (S, M, 2), radii (S,), colors (S, 3) and opacities (S,) -> (1, 3, H, W)"""
        paths = parts[0]
        at_once = max(_AT_LEAST, _AT_ONCE // (size[0] * size[1]))
        ctx.layers = [slice(first, first + at_once) for first in range(0, len(paths), at_once)]
        ctx.is_filled = kind == "shape"
        images = paper.new_empty(len(ctx.layers) + 1, 3, *size)
        nearest = torch.empty(len(paths), *size, dtype=torch.uint8, device=paper.device)
        images[0] = paper[:, None, None]
        for index, some in enumerate(ctx.layers):
            nearest[some] = _nearest(paths[some], size, is_filled=ctx.is_filled)
            layer = (part[some] for part in parts)
            images[index + 1] = _layer(images[index], nearest[some], *layer, is_filled=ctx.is_filled)
        ctx.save_for_backward(images, nearest, *parts)
        return images[-1:].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, nearest, *parts = ctx.saved_tensors
        grad, sums = grad[0], [torch.zeros_like(part) for part in parts]
        for index, some in reversed(list(enumerate(ctx.layers))):
            inputs = [
                part.detach().requires_grad_(True) for part in (images[index], *(p[some] for p in parts))
            ]
            with torch.enable_grad():
                layer = _layer(inputs[0], nearest[some], *inputs[1:], is_filled=ctx.is_filled)
            grad, *grads = torch.autograd.grad(layer, inputs, grad)
            for total, part in zip(sums, grads, strict=True):
                total[some] = part
        return None, None, grad.sum((1, 2)), *sums


def _layer(
    image: Tensor,
    nearest: Tensor,
    paths: Tensor,
    radii: Tensor,
    colors: Tensor,
    opacities: Tensor,
    *,
    is_filled: bool,
) -> Tensor:
    """An image with some strokes on top: (3, H, W) -> (3, H, W)"""
    down, right = _centers(image.shape[1:], paths)
    piece = (nearest % _INSIDE).long().flatten(1)  # (S, H * W)

    def of_piece(values: Tensor) -> Tensor:
        return values.gather(1, piece).view(nearest.shape)  # (S, M - 1) -> (S, H, W)

    start, along = paths[:, :-1], paths[:, 1:] - paths[:, :-1]
    to_x, to_y = right - of_piece(start[..., 0]), down - of_piece(start[..., 1])
    x, y = of_piece(along[..., 0]), of_piece(along[..., 1])
    share = ((to_x * x + to_y * y) / (x * x + y * y).clamp(min=1e-9)).clamp(0, 1)
    distance = ((to_x - share * x).square() + (to_y - share * y).square() + 1e-6).sqrt()
    if is_filled:
        distance = torch.where(nearest >= _INSIDE, -distance, distance)
    outside = distance - radii[:, None, None]  # pixels
    coverage = straight_through((0.5 - outside).clamp(0, 1), (-outside / _REACH).sigmoid())
    alphas = coverage * opacities[:, None, None]
    for alpha, color in zip(alphas, colors, strict=True):
        image = torch.lerp(image, color[:, None, None], alpha)
    return image


def _nearest(paths: Tensor, size: tuple[int, int], *, is_filled: bool) -> Tensor:
    """Index of the piece of each path that is nearest to each pixel, plus 128 inside a closed one.

    Args:
        paths: (S, M, 2) in pixels, of M - 1 < 128 straight pieces.

    Returns:
        (S, H, W), uint8
    """
    down, right = _centers(size, paths)
    best = paths.new_full((len(paths), *size), torch.inf)
    nearest = torch.zeros(best.shape, dtype=torch.uint8, device=paths.device)
    inside = torch.zeros_like(nearest, dtype=torch.bool)
    for piece in range(paths.shape[1] - 1):
        x, y = paths[:, piece, :, None, None].unbind(1)  # (S, 1, 1)
        to_x, to_y = (paths[:, piece + 1] - paths[:, piece])[..., None, None].unbind(1)
        squared = (to_x * to_x + to_y * to_y).clamp(min=1e-9)
        share = ((right - x) * (to_x / squared) + (down - y) * (to_y / squared)).clamp_(0, 1)
        distance = (right - x - share * to_x).square_() + (down - y - share * to_y).square_()
        is_nearer = distance < best
        best = torch.minimum(best, distance)
        nearest.masked_fill_(is_nearer, piece)
        if is_filled:  # a line to the right crosses the outline an odd number of times
            crosses = (y <= down) != (y + to_y <= down)  # (S, H, 1)
            crossing = x + (down - y) * to_x / torch.where(crosses, to_y, 1)
            inside ^= crosses & (right < crossing)
    return nearest + inside * _INSIDE if is_filled else nearest


def _centers(size: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Centers of the pixels: down (H, 1), right (1, W)"""
    height, width = (torch.arange(side, dtype=like.dtype, device=like.device) + 0.5 for side in size)
    return height[:, None], width[None]


@lru_cache
def _basis(kind: StrokeKind) -> Tensor:
    """The matrix from a stroke's control points to its path: (M, K)"""
    if kind == "line":
        return torch.eye(2)
    if kind == "curve":
        t = torch.linspace(0, 1, 17)
        return torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)
    corners, t = POINTS["shape"], torch.arange(4) / 4
    # from the middle before a point to the middle after it: a quadratic Bezier curve
    weights = torch.stack([(1 - t) ** 2 / 2, 0.5 + t - t**2, t**2 / 2], 1)  # (4, 3)
    rows = torch.zeros(corners, 4, corners)
    for corner in range(corners):
        for beside in (-1, 0, 1):
            rows[corner, :, (corner + beside) % corners] = weights[:, beside + 1]
    return torch.cat([rows.flatten(0, 1), rows[0, :1]])


def _path(kind: StrokeKind, points: list[list[float]]) -> str:
    """The SVG path of a stroke, from its points in pixels."""

    def at(x: float, y: float) -> str:
        return f"{x:.3f} {y:.3f}"

    if kind != "shape":
        first, *others = points
        return f"M{at(*first)} {'L' if kind == 'line' else 'C'}{' '.join(at(*point) for point in others)}"
    middles = [
        ((x + a) / 2, (y + b) / 2) for (x, y), (a, b) in zip(points[-1:] + points[:-1], points, strict=True)
    ]
    curves = zip(points, middles[1:] + middles[:1], strict=True)
    return f"M{at(*middles[0])} {' '.join(f'Q{at(*point)} {at(*middle)}' for point, middle in curves)} Z"
