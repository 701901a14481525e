"""Layers of frozen networks: differentiable in their inputs alone, and keeping no more than that takes.

Torch's own keep what gradients of the weights would take, too: a convolution its input, a swish its sigmoid.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolve(images: Tensor, layer: nn.Conv2d, *, wraps: bool = False) -> Tensor:
    """A convolution: (N, C, H, W) -> (N, C', H', W')

    Args:
        wraps: pad with what lies at the opposite edge, in place of zeros.
    """
    padding = layer.padding
    assert not isinstance(padding, str)
    if wraps:
        down, right = padding
        images, padding = F.pad(images, (right, right, down, down), "circular"), (0, 0)
    convolved: Tensor = _Convolution.apply(
        images, layer.weight, layer.bias, layer.stride, padding, layer.dilation, layer.groups
    )
    return convolved


def norm_swish(images: Tensor, norm: nn.GroupNorm) -> Tensor:
    """A group normalization, then x · sigmoid(x): (N, C, H, W) -> the same"""
    normalized: Tensor = _NormSwish.apply(images, norm.weight, norm.bias, norm.num_groups, norm.eps)
    return normalized


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.settings = (stride, padding, dilation, False, (0, 0), groups, (True, False, False))
        ctx.shape, ctx.is_flat = images.shape, images.is_contiguous()
        return F.conv2d(images, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        like = grad  # of the input, only shape and layout are looked at
        if grad.shape != ctx.shape:
            layout = torch.contiguous_format if ctx.is_flat else torch.channels_last
            like = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=layout)
        back, _, _ = torch.ops.aten.convolution_backward(grad, like, weight, None, *ctx.settings)
        return back, *[None] * 6


class _NormSwish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        number, channels, height, width = images.shape
        normalized, mean, scale = torch.native_group_norm(
            images, weight, bias, number, channels, height * width, groups, eps
        )
        ctx.save_for_backward(images, weight, bias, mean, scale)
        ctx.groups = groups
        return F.silu(normalized, inplace=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, bias, mean, scale = ctx.saved_tensors
        number, channels, height, width = images.shape
        # the normalized is made again: cheaper than to keep it
        factor = scale[:, :, None] * weight.view(1, ctx.groups, -1)  # (N, G, C / G)
        shift = bias.view(1, ctx.groups, -1) - mean[:, :, None] * factor
        factor, shift = (part.reshape(number, channels, 1, 1).to(images.dtype) for part in (factor, shift))
        normalized = torch.addcmul(shift, images, factor)
        grad = torch.ops.aten.silu_backward(grad, normalized)
        sizes = (number, channels, height * width, ctx.groups)
        back, _, _ = torch.ops.aten.native_group_norm_backward(
            grad, images, mean, scale, weight, *sizes, (True, False, False)
        )
        return back, None, None, None, None
