"""Precisions: which one a CLIP runs in on a device, and how its weights get there."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch

Precision = Literal["fp32", "bf16", "fp16", "int8"]
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float32,  # of what flows between its layers
}


class PrecisionUnsupported(ValueError):
    """A device does not compute in that precision."""


def pick_precision(name: str, device: torch.device, *, needs_fp32: bool = False) -> Precision:
    """The precision of a name; `auto` is the fastest that turns no embedding by much.

    That is bf16 where the device computes in it, fp16 on a GPU that does not, fp32 elsewhere: a CPU without
    bf16 in its instructions only imitates it, slower than fp32.

    Args:
        needs_fp32: 16 bits are too few for this model; `auto` leaves it alone.

    Raises:
        PrecisionUnsupported: `int8` was asked for on another device than a CPU, or the name is not known.
    """
    if name == "int8" and device.type != "cpu":
        raise PrecisionUnsupported(f"int8 is for CPUs, and this is {device}; take bf16 or fp16")
    for precision in DTYPES:
        if name == precision:
            return precision
    if name != "auto":
        raise PrecisionUnsupported(f"no precision {name!r}; there are auto, {', '.join(DTYPES)}")
    if needs_fp32:
        return "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def convert(model: torch.nn.Module, precision: Precision) -> None:
    """Give a model's large weights that precision, in place; norms keep fp32.

    Of `bf16` and `fp16` the model must be called under autocast, which casts the few weights that are left as
    needed. open_clip's own conversions make bf16 of BatchNorm's statistics in timm's networks (all weights
    there), or stop at SigLIP's text projection.

    `int8` is dynamic: weights of linear layers are kept in 8 bits, their inputs are brought to 8 bits as they
    come. Convolutions stay fp32.
    """
    if precision == "int8":
        with warnings.catch_warnings():
            # deprecated in favor of another package; it is what torch itself has
            warnings.filterwarnings("ignore", message=".*quantiz", category=Warning)
            quantize: Any = torch.ao.quantization.quantize_dynamic
            quantize(model, _linear_layers(model), torch.qint8, inplace=True)
        for module in model.modules():
            if isinstance(module, torch.ao.nn.quantized.dynamic.Linear):
                # open_clip asks for it in place of the weights' own
                object.__setattr__(module, "int8_original_dtype", torch.float32)
    elif precision != "fp32":
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.MultiheadAttention):
                module.to(DTYPES[precision])


def _linear_layers(model: torch.nn.Module) -> set[str]:
    """The names of those that int8 takes; the text projection open_clip wants to be of torch's own class."""
    names = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return {name for name in names if not name.endswith("text_projection")}


def _cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware."""
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # newer torch has it
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
