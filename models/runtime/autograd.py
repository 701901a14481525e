"""Functions whose gradient is not their derivative."""

from typing import Any

import torch
from torch import Tensor


def straight_through(value: Tensor, gradient: Tensor) -> Tensor:
    """The first one's value, with a gradient that goes to the second (Bengio et al., arXiv:1308.3432)."""
    replaced: Tensor = _StraightThrough.apply(value, gradient)
    return replaced


def clamp_to_range(images: Tensor) -> Tensor:
    """Clamp to [0, 1]. Outside of it a gradient passes only if descent along it moves the value back in."""
    clamped: Tensor = _ClampToRange.apply(images)
    return clamped


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradient: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


class _ClampToRange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.save_for_backward(images)
        return images.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        images: Tensor = ctx.saved_tensors[0]
        return grad * (grad * (images - images.clamp(0, 1)) >= 0)
