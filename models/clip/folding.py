"""Folding: what a frozen network need not do anew at each step becomes part of its convolutions.

In a network that only infers, a batch norm is a scale and a shift per channel: they can be the weights
and the bias of the convolution whose output it reads (Jacob et al. 2018, arXiv:1712.05877, 3.2). Padding of
one side can be zeros in the kernel. And a clamp can go back by what it gave.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import get_same_padding
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(network: nn.Module, images: Tensor) -> int:
    """Fold, in place, every batch norm that alone reads a convolution's output; how many there were.

    Args:
        network: in eval mode, its weights in fp32.
        images: an input; which layer reads which is seen on its way through.
    """
    pairs = _pairs(network, images)
    for norm, convolution in pairs.items():
        # in fp64, so that nothing is rounded but the new weights
        folded = fuse_conv_bn_eval(copy.deepcopy(convolution).double(), norm.double()).float()
        convolution.weight, convolution.bias = folded.weight, folded.bias
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if child in pairs:
                setattr(parent, name, _rest(child))
    return len(pairs)


def fold_paddings(network: nn.Module, images: Tensor) -> int:
    """Let depthwise convolutions pad by themselves, in place, where timm copies their input to pad it.

    TensorFlow pads an even picture by one more below and on the right. A kernel with a first row and column
    of zeros and equal padding on all sides gives the same, bit for bit, in a quarter of the time on a CPU.

    Args:
        images: an input; its sides, or others of the same parity, are those that the network then takes.

    Returns:
        how many there were.
    """
    sides: dict[nn.Module, torch.Size] = {}
    layers = [
        module
        for module in network.modules()
        if isinstance(module, Conv2dSame) and module.groups > 1 and module.dilation == (1, 1)
    ]
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: sides.update({layer: inputs[0].shape[2:]}))
        for layer in layers
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if child in sides and isinstance(child, Conv2dSame):
                setattr(parent, name, PaddingConv2d(child, sides[child]))
    return len(sides)


class PaddingConv2d(nn.Conv2d):
    """A depthwise convolution with a stride, as timm's `Conv2dSame` is on pictures of these sides."""

    def __init__(self, layer: Conv2dSame, sides: torch.Size) -> None:
        totals = [
            get_same_padding(side, kernel, stride, 1)
            for side, kernel, stride in zip(sides, layer.kernel_size, layer.stride, strict=True)
        ]
        (above, left), padding = ((total % 2 for total in totals), [total - total // 2 for total in totals])
        weight = F.pad(layer.weight.detach(), (left, 0, above, 0))
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            (weight.shape[2], weight.shape[3]),
            (layer.stride[0], layer.stride[1]),
            (padding[0], padding[1]),
            groups=layer.groups,
            device="meta",  # no weights are drawn
        )
        self.weight, self.bias = nn.Parameter(weight), layer.bias

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type == "cpu" and images.dtype == torch.bfloat16:
            convolved: Tensor = _Halved.apply(
                images, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
            )
            return convolved
        return super().forward(images)


class _Halved(torch.autograd.Function):
    """In bf16, but on the way back: for that oneDNN has no kernel and takes ten times as long as in fp32."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.settings = images.shape, settings
        return F.conv2d(images, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        like = torch.empty(ctx.shape, memory_format=torch.channels_last)  # its shape and layout are looked at
        back, _, _ = torch.ops.aten.convolution_backward(
            *(grad.float(), like, weight.float(), None, stride, padding, dilation, False, (0, 0), groups),
            (True, False, False),
        )
        return back.to(torch.bfloat16), *[None] * 6


def keep_clamped(network: nn.Module) -> int:
    """Let each ReLU6 go back by what it gave, in place of the modules; how many there were.

    torch goes back by what it was given, and copies that before it clamps in place; the layer after keeps
    what comes of it anyway. The gradient is the same, bit for bit.
    """
    found = 0
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.ReLU6:
                setattr(parent, name, _Relu6(child.inplace))
                found += 1
    return found


class _Relu6(nn.ReLU6):
    def forward(self, values: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and values.requires_grad):
            return super().forward(values)
        clamped: Tensor = _Clamped.apply(values)
        return clamped


class _Clamped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        clamped = F.relu6(values)
        ctx.save_for_backward(clamped)
        return clamped

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (clamped,) = ctx.saved_tensors
        back: Tensor = torch.ops.aten.hardtanh_backward(grad, clamped, 0.0, 6.0)
        return back


def _pairs(network: nn.Module, images: Tensor) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """The batch norms that can be folded, each with the convolution that it reads."""
    makers: dict[int, nn.Conv2d] = {}  # by the identity of what they gave
    outputs: list[Tensor] = []  # kept, so that no identity is used twice
    readers: dict[nn.Conv2d, list[nn.Module]] = {}

    def made(module: nn.Conv2d, _: Any, output: Any) -> None:
        makers[id(output)] = module
        outputs.append(output)

    def read(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for value in inputs:
            if id(value) in makers:
                readers.setdefault(makers[id(value)], []).append(module)

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(made))
        if isinstance(module, nn.BatchNorm2d) or not any(module.children()):
            hooks.append(module.register_forward_pre_hook(read))
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    pairs = {}
    for convolution, reading in readers.items():
        if len(reading) == 1 and isinstance(reading[0], nn.BatchNorm2d):
            pairs[reading[0]] = convolution
    return pairs


def _rest(norm: nn.Module) -> nn.Module:
    """What is left of a folded norm: timm's have an activation, and a dropout before it, of their own."""
    rest = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    return nn.Sequential(*rest) if rest else nn.Identity()
