"""Weights in 8 bits with a scale for each row: how most of the demo models' weights are shipped.

`NAME`, int8 (N, ...), beside `NAME.scale`, fp32 (N,), stand for the fp32 tensor of their products: each row
rounded to the nearest of 255 even steps around zero, the last at its largest value (symmetric quantization,
Jacob et al. 2018, arXiv:1712.05877).
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_SCALE = ".scale"
_MOST = 127
_LEAST = 64  # values of a row that are worth its scale


def pack(tensors: "Mapping[str, Tensor]", chosen: Callable[[str], bool]) -> "dict[str, Tensor]":
    """The tensors with those of long rows that are chosen by name in 8 bits, all others in 16."""
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            packed[name] = tensor
        elif tensor.ndim < 2 or tensor[0].numel() < _LEAST or not chosen(name):
            packed[name] = tensor.half()
        else:
            rows = tensor.float()
            scale = rows.abs().flatten(1).amax(1).clamp(min=1e-12) / _MOST
            packed[name] = (rows / scale.view(-1, *[1] * (rows.ndim - 1))).round().char()
            packed[name + _SCALE] = scale
    return packed


def unpack(tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """What `pack` packed, in fp32; all others as they are."""
    whole = {name: tensor for name, tensor in tensors.items() if not _is_scale(name, tensors)}
    for name, tensor in whole.items():
        scale = tensors.get(name + _SCALE)
        if scale is not None:
            whole[name] = tensor.float() * scale.view(-1, *[1] * (tensor.ndim - 1))
    return whole


def _is_scale(name: str, tensors: "dict[str, Tensor]") -> bool:
    return name.endswith(_SCALE) and name.removesuffix(_SCALE) in tensors
