"""A plain VQGAN+CLIP loop, written from the formulas: what ours is compared with, in numbers and in speed.

Nothing is shared with `models/`: Adam is written out, codes are one-hot rows, cutouts are cut and scaled one
by one with the Lanczos and bicubic filters of K. Crowson's notebooks, and text prompts are all it knows.

Letters: latents (1, D, h, w); a picture (1, 3, H, W) in [0, 1]; K cutouts of R x R pixels; E of an embedding.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
    resize_dtype: torch.dtype = torch.float32,
) -> Iterator[float]:
    """The loss of each step.

    Args:
        resize_dtype: of the cutouts' resizing. Rounded at each of its passes, a place that has two codes all
            but equally near may take the other one, and the losses part.
        texts: unit embeddings (P, E).
        stops: -inf where a prompt always pulls.
        grid: (h, w)
    """
    codebook = networks.codebook
    rng = torch.Generator().manual_seed(seed)
    codes = torch.randint(len(codebook), [grid[0] * grid[1]], generator=rng)
    latents = codebook[codes].T.reshape(1, -1, *grid).contiguous().requires_grad_()
    low, high = (bound.view(1, -1, 1, 1) for bound in (codebook.amin(0), codebook.amax(0)))
    rng = torch.Generator().manual_seed(seed)
    momentum, energy = torch.zeros_like(latents), torch.zeros_like(latents)
    for step in range(1, steps + 1):
        quantized = _Quantize.apply(latents, codebook)
        image = _Clamp.apply((networks.decode(quantized) + 1) / 2)
        views = torch.cat([_cutout(image, networks.size, rng, resize_dtype) for _ in range(cutouts)])
        seen = F.normalize(networks.encode_image((views - networks.mean) / networks.std), dim=-1)
        loss = torch.zeros(())
        for text, weight, stop in zip(texts, weights, stops, strict=True):
            chord = (seen - text).norm(dim=-1)
            distance = 2 * torch.arcsin(chord / 2) ** 2 * math.copysign(1, weight)
            loss = loss + abs(weight) * _Stop.apply(distance, stop).mean()
        (gradient,) = torch.autograd.grad(loss, latents)
        momentum = 0.9 * momentum + 0.1 * gradient
        energy = 0.999 * energy + 0.001 * gradient**2
        move = momentum / (1 - 0.9**step) / (torch.sqrt(energy / (1 - 0.999**step)) + 1e-8)
        moved = latents.detach() - learning_rate * move
        latents = torch.minimum(torch.maximum(moved, low), high).requires_grad_()
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
    return _Clamp.apply(resized.float())


def _lanczos(ratio: float) -> Tensor:
    """A Lanczos window of two lobes for scaling down by `ratio` < 1; its sum is 1."""
    # points at multiples of the ratio while they lie within the two lobes; the outermost falls away
    count = math.ceil(2 / ratio + 1) - 1
    points = torch.tensor([k * ratio for k in range(1 - count, count)])
    window = torch.where(points.abs() < 2, torch.sinc(points) * torch.sinc(points / 2), 0.0)
    return window / window.sum()
