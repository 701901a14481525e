"""A plain VQGAN+CLIP loop, written from the formulas: what ours is compared with, in numbers and in speed.

Nothing is shared with `models/`: Adam is written out, codes are one-hot rows, cutouts are cut and scaled one
by one with the Lanczos and bicubic filters of K. Crowson's notebooks, each is augmented by itself with
kornia's functions, and text prompts are all it knows. Random numbers are drawn in the order that
`models/cutouts` has; the programs themselves drew them from generators that all of a process shared.

Letters: latents (1, D, h, w); a picture (1, 3, H, W) in [0, 1]; K cutouts of R x R pixels; E of an embedding.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from kornia import enhance
from kornia.geometry import transform
from torch import Tensor


@dataclass(frozen=True)
class Networks:
    """The networks, as functions."""

    decode: Callable[[Tensor], Tensor]  # (1, D, h, w) -> (1, 3, H, W) in [-1, 1]
    codebook: Tensor  # (N, D)
    encode_image: Callable[[Tensor], Tensor]  # normalized (K, 3, R, R) -> (K, E), of any length
    mean: Tensor  # (1, 3, 1, 1)
    std: Tensor
    size: int  # R


def draw(
    networks: Networks,
    texts: Tensor,
    weights: Sequence[float],
    stops: Sequence[float],
    *,
    grid: tuple[int, int],
    steps: int,
    cutouts: int,
    seed: int,
    learning_rate: float = 0.1,
    method: Literal["original", "updated", "pooling", "pixray"] = "original",
    start: Tensor | None = None,
    drops: Sequence[float] = (),
    restarts: Sequence[int] = (),
    penalty: Callable[[Tensor, Tensor, int], Tensor] | None = None,
    clamp: bool = True,
    resize_dtype: torch.dtype = torch.float32,
) -> Iterator[float]:
    """The loss of each step.

    Args:
        start: latents to start from (1, D, h, w); none: random codes.
        drops: shares of the steps, after each of which the rate is a tenth, and Adam starts anew.
        restarts: steps with which Adam starts anew.
        penalty: of the latents, those of the start, and the step from 1.
        clamp: keep the latents in the codebook's range.
        resize_dtype: of the cutouts' resizing. Rounded at each of its passes, a place that has two codes all
            but equally near may take the other one, and the losses part.
        texts: unit embeddings (P, E).
        stops: -inf where a prompt always pulls.
        grid: (h, w)
    """
    codebook = networks.codebook
    if start is None:
        rng = torch.Generator().manual_seed(seed)
        codes = torch.randint(len(codebook), [grid[0] * grid[1]], generator=rng)
        start = codebook[codes].T.reshape(1, -1, *grid)
    start = start.clone().contiguous()
    latents = start.clone().requires_grad_()
    low, high = (bound.view(1, -1, 1, 1) for bound in (codebook.amin(0), codebook.amax(0)))
    rng = torch.Generator().manual_seed(seed)
    since = 0  # the steps that Adam remembers
    for step in range(1, steps + 1):
        dropped = sum(step > drop * steps for drop in drops)
        if step == 1 or step in restarts or dropped != sum(step - 1 > drop * steps for drop in drops):
            momentum, energy, since = torch.zeros_like(latents), torch.zeros_like(latents), 0
        quantized = _Quantize.apply(latents, codebook)
        image = _Clamp.apply((networks.decode(quantized) + 1) / 2)
        views = VIEWS[method](image, networks.size, cutouts, rng, resize_dtype)
        seen = F.normalize(networks.encode_image((views - networks.mean) / networks.std), dim=-1)
        loss = torch.zeros(())
        for text, weight, stop in zip(texts, weights, stops, strict=True):
            chord = (seen - text).norm(dim=-1)
            distance = 2 * torch.arcsin(chord / 2) ** 2 * math.copysign(1, weight)
            loss = loss + abs(weight) * _Stop.apply(distance, stop).mean()
        if penalty is not None:
            loss = loss + penalty(latents, start, step)
        (gradient,) = torch.autograd.grad(loss, latents)
        momentum = 0.9 * momentum + 0.1 * gradient
        energy = 0.999 * energy + 0.001 * gradient**2
        since += 1
        move = momentum / (1 - 0.9**since) / (torch.sqrt(energy / (1 - 0.999**since)) + 1e-8)
        latents = latents.detach() - learning_rate / 10**dropped * move
        if clamp:
            latents = torch.minimum(torch.maximum(latents, low), high)
        latents.requires_grad_()
        yield loss.item()


class _Quantize(torch.autograd.Function):
    """The nearest row of the codebook; the gradient goes through as if nothing had happened."""

    @staticmethod
    def forward(ctx, latents, codebook):  # type: ignore[no-untyped-def]
        rows = latents.permute(0, 2, 3, 1)
        distances = (rows**2).sum(-1, keepdim=True) + (codebook**2).sum(1) - 2 * rows @ codebook.T
        one_hot = F.one_hot(distances.argmin(-1), len(codebook)).to(codebook.dtype)
        return (one_hot @ codebook).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient, None


class _Clamp(torch.autograd.Function):
    """Clamp to [0, 1]; a gradient passes unless descent along it would lead further out."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        inwards = ((x >= 0) | (gradient <= 0)) & ((x <= 1) | (gradient >= 0))
        return torch.where(inwards, gradient, torch.zeros_like(gradient))


class _Stop(torch.autograd.Function):
    """The distance itself; its gradient is that of max(distance, stop)."""

    @staticmethod
    def forward(ctx, distance, stop):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(distance)
        ctx.stop = stop
        return distance.clone()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        (distance,) = ctx.saved_tensors
        return gradient * (distance > ctx.stop), None


def _crops(image: Tensor, size: int, count: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
    """K. Crowson's cutouts."""
    return torch.cat([_cutout(image, size, rng, dtype) for _ in range(count)])


def _updated(image: Tensor, size: int, count: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Flip, ColorJitter(hue=.01, saturation=.01), Sharpness(.3), Affine(30, .1), Perspective(.2), noise"""
    crops = _crops(image, size, count, rng, dtype)
    flipped = _uniform(count, rng=rng) < 0.5
    tinted = _uniform(count, rng=rng) < 0.7
    hues, saturations = _spread(0.01, count, rng), _spread(0.01, count, rng)
    softened, shares = _uniform(count, rng=rng) < 0.4, _uniform(count, rng=rng) * 0.3
    turned, angles = _uniform(count, rng=rng) < 0.8, _spread(30, count, rng)
    shifts = _spread(0.1, (count, 2), rng)
    tilted, corners = _uniform(count, rng=rng) < 0.4, _uniform(count, 4, 2, rng=rng) * 0.2
    views = []
    for k in range(count):
        view = crops[k : k + 1]
        if flipped[k]:
            view = view.flip(3)
        if tinted[k]:
            view = enhance.adjust_hue(view, hues[k] * 2 * math.pi)
            view = enhance.adjust_saturation(view, 1 + saturations[k])
        if softened[k]:
            view = enhance.sharpness(view, shares[k])
        if turned[k]:
            view = _affine(view, angles[k], shifts[k], torch.zeros(()).double(), "border")
        if tilted[k]:
            view = _warped(view, _tilt(corners[k], size))
        views.append(view)
    return _noisy(torch.cat(views), rng)


def _latest(image: Tensor, size: int, count: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Affine(15, .1, 5), Perspective(.7), ColorJitter(.1, .1, .1, .1), Erasing((.1, .4), (.3, 3.3)), noise"""
    pooled = (F.adaptive_avg_pool2d(image, size) + F.adaptive_max_pool2d(image, size)) / 2
    turned, angles = _uniform(count, rng=rng) < 0.7, _spread(15, count, rng)
    shifts, shears = _spread(0.1, (count, 2), rng), _spread(5, count, rng)
    tilted, corners = _uniform(count, rng=rng) < 0.7, _uniform(count, 4, 2, rng=rng) * 0.7
    tinted = _uniform(count, rng=rng) < 0.7
    brightness, contrast, saturation, hue = (_spread(0.1, count, rng) for _ in range(4))
    erased, area, flat, high, which, across, down = _uniform(7, rng=rng)
    area = (0.1 + 0.3 * area) * size**2
    ratio = 1 + 2.3 * high if which > 0.5 else 0.3 + 0.7 * flat
    box_height = int((area * ratio).sqrt().round().clamp(1, size))
    box_width = int((area / ratio).sqrt().round().clamp(1, size))
    top, left = int(down * (size - box_height + 1)), int(across * (size - box_width + 1))
    views = []
    for k in range(count):
        view = pooled
        if turned[k]:
            view = _affine(view, angles[k], shifts[k], shears[k], "zeros")
        if tilted[k]:
            view = _warped(view, _tilt(corners[k], size))
        if tinted[k]:
            view = enhance.adjust_brightness(view, brightness[k])
            view = enhance.adjust_contrast(view, 1 + contrast[k])
            view = enhance.adjust_saturation(view, 1 + saturation[k])
            view = enhance.adjust_hue(view, hue[k] * 2 * math.pi)
        if erased < 0.7:
            kept = torch.ones(size, size)
            kept[top : top + box_height, left : left + box_width] = 0
            view = view * kept
        views.append(view)
    return _noisy(torch.cat(views), rng)


def _pixray(image: Tensor, size: int, count: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Perspective(.4), ResizedCrop((.25, .95), (.85, 1.2)); or letterbox, Perspective(.2). Jitter, noise"""
    pooled = (F.adaptive_avg_pool2d(image, size) + F.adaptive_max_pool2d(image, size)) / 2
    height, width = image.shape[2:]
    wide, high = width / min(width, height), height / min(width, height)
    zooms = round(0.6 * count)
    wides, last = count - zooms, size - 1
    tilted, corners = _uniform(zooms, rng=rng) < 0.7, _uniform(zooms, 4, 2, rng=rng) * 0.4
    areas = (0.25 + 0.7 * _uniform(zooms, rng=rng)) * wide * high
    log_ratios = math.log(0.85) + math.log(1.2 / 0.85) * _uniform(zooms, rng=rng)
    places = _uniform(zooms, 2, rng=rng)
    mirrors, gray = _uniform(2, rng=rng)
    views = []
    for k in range(zooms):
        across = min(1.0, float((areas[k] * log_ratios[k].exp()).sqrt()) / wide)
        down = min(1.0, float((areas[k] / log_ratios[k].exp()).sqrt()) / high)
        left, top = float(places[k, 0]) * (1 - across) * last, float(places[k, 1]) * (1 - down) * last
        cut = _double([[1 / across, 0, -left / across], [0, 1 / down, -top / down], [0, 0, 1]])
        tilt = _tilt(corners[k], size)[0] if tilted[k] else torch.eye(3).double()
        padding = "reflection" if mirrors < 0.5 else "border"
        views.append(_warped(pooled, (cut @ tilt)[None], padding_mode=padding))

    is_square = width == height
    shares = torch.full((wides,), 0.95) if is_square else 0.9 + 0.1 * _uniform(wides, rng=rng)
    shifts = _spread(1, (wides, 2), rng)
    tilted, corners = _uniform(wides, rng=rng) < 0.7, _uniform(wides, 4, 2, rng=rng) * 0.2
    for k in range(wides):
        longest = max(wide, high)
        scale = [float(shares[k]) * side / longest for side in (wide, high)]
        room = [0.05, 0.05] if is_square else [1 - side / longest for side in (wide, high)]
        shift = [float(shifts[k, axis]) * room[axis] * last / 2 for axis in (0, 1)]
        center = last / 2
        fitted = _double(
            [
                [scale[0], 0, center - scale[0] * center + shift[0]],
                [0, scale[1], center - scale[1] * center + shift[1]],
                [0, 0, 1],
            ]
        )
        tilt = _tilt(corners[k], size)[0] if tilted[k] else torch.eye(3).double()
        fill = gray.expand(3).to(pooled.dtype)
        views.append(_warped(pooled, (tilt @ fitted)[None], padding_mode="fill", fill_value=fill))
    tinted = _uniform(count, rng=rng) < 0.8
    hues, saturations = _spread(0.1, count, rng), _spread(0.1, count, rng)
    for k in range(count):
        if tinted[k]:
            views[k] = enhance.adjust_saturation(views[k], 1 + saturations[k])
            views[k] = enhance.adjust_hue(views[k], hues[k] * 2 * math.pi)
    return _noisy(torch.cat(views), rng)


VIEWS = {"original": _crops, "updated": _updated, "pooling": _latest, "pixray": _pixray}
"""Of each method: (1, 3, H, W), R, K, a generator and the type to resize with -> views (K, 3, R, R)"""


def _uniform(*shape: int, rng: torch.Generator) -> Tensor:
    """In 0 … 1, with room for exact matrices"""
    return torch.rand(shape, generator=rng).double()


def _spread(most: float, shape: int | tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Uniform in -most … most"""
    return (torch.rand(shape, generator=rng).double() * 2 - 1) * most


def _double(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _warped(view: Tensor, matrix: Tensor, **padding: str | Tensor) -> Tensor:
    """Its places moved by a matrix of pixels (1, 3, 3)."""
    return transform.warp_perspective(view, matrix.to(view.dtype), tuple(view.shape[-2:]), **padding)


def _affine(view: Tensor, angle: Tensor, shift: Tensor, shear: Tensor, padding: str) -> Tensor:
    """Sheared and turned by degrees about the center, then shifted by shares of the side."""
    last = view.shape[-1] - 1
    matrix = transform.get_affine_matrix2d(
        shift[None] * last,
        torch.full((1, 2), last / 2).double(),
        torch.ones(1, 2).double(),
        angle[None],
        shear[None].deg2rad(),
    )
    matrix = matrix[:, :2].to(view.dtype)
    return transform.warp_affine(view, matrix, tuple(view.shape[-2:]), padding_mode=padding)


def _tilt(corners: Tensor, size: int) -> Tensor:
    """The perspective that moves corners, clockwise from the upper left one, so far towards the center."""
    last = size - 1
    old = _double([[0.0, 0.0], [last, 0.0], [last, last], [0.0, last]])
    inwards = _double([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    return transform.get_perspective_transform(old[None], (old + inwards * corners * last / 2)[None])


def _noisy(views: Tensor, rng: torch.Generator) -> Tensor:
    strengths = (_uniform(len(views), rng=rng) * 0.1).to(views.dtype)
    seeded = torch.Generator().manual_seed(int(torch.randint(1 << 62, (), generator=rng)))
    noise = torch.randn(views.shape, generator=seeded, dtype=views.dtype)
    return views + strengths[:, None, None, None] * noise


def _cutout(image: Tensor, size: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
    """One square of random side and place, scaled to `size`: (1, 3, H, W) -> (1, 3, R, R)"""
    height, width = image.shape[2:]
    longest = min(height, width)
    shortest = min(longest, size)
    side = int(torch.rand((), generator=rng) * (longest - shortest) + shortest)
    left = int(torch.randint(0, width - side + 1, (), generator=rng))
    top = int(torch.randint(0, height - side + 1, (), generator=rng))
    square = image[:, :, top : top + side, left : left + side].to(dtype)
    if size < side:
        kernel = _lanczos(size / side).to(dtype)
        pad = len(kernel) // 2
        planes = square.transpose(0, 1)  # each color by itself
        planes = F.conv2d(F.pad(planes, (0, 0, pad, pad), "reflect"), kernel[None, None, :, None])
        planes = F.conv2d(F.pad(planes, (pad, pad, 0, 0), "reflect"), kernel[None, None, None, :])
        square = planes.transpose(0, 1)
    resized = F.interpolate(square, (size, size), mode="bicubic", align_corners=True)
    return _Clamp.apply(resized.to(image.dtype))


def _lanczos(ratio: float) -> Tensor:
    """A Lanczos window of two lobes for scaling down by `ratio` < 1; its sum is 1."""
    # points at multiples of the ratio while they lie within the two lobes; the outermost falls away
    count = math.ceil(2 / ratio + 1) - 1
    points = torch.tensor([k * ratio for k in range(1 - count, count)])
    window = torch.where(points.abs() < 2, torch.sinc(points) * torch.sinc(points / 2), 0.0)
    return window / window.sum()
