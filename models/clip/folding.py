"""Folding: batch norms of a frozen network become part of the convolutions before them.

In a network that only infers, a batch norm is a scale and a shift per channel: they can be the weights
and the bias of the convolution whose output it reads (Jacob et al. 2018, arXiv:1712.05877, 3.2).
"""

import copy
from typing import Any

import torch
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
