"""Pickled checkpoints made safetensors, without running anything that they name.

`python -m models.weights_io.unpickle SOURCE TARGET` is the process that does it, bounded in memory and time,
for `models.catalog`: no other part of the project opens a pickle. It says what it does in lines of JSON.
"""

import argparse
import json
import re
import resource
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from models.weights_io import (
    UnsafeCheckpoint,
    WeightsError,
    WeightsUnusable,
    save_tensors,
    sha256_of,
    torchscript,
)

if TYPE_CHECKING:
    from torch import Tensor

DTypeName = Literal["fp32", "fp16", "bf16"]


def convert(
    source: Path,
    target: Path,
    *,
    dtype: DTypeName | None = None,
    decoder_only: bool = False,
    transformer: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, str]:
    """Make a safetensors file of an old pickled checkpoint without running anything the pickle names.

    A VQGAN keeps its encoder, decoder, codebook and their two convolutions, out of a transformer's checkpoint
    too; losses, discriminator and optimizer stay behind. A CLIP keeps all its tensors, out of one of OpenAI's
    TorchScript archives too. Each of min-dalle's files is taken, and a safetensors file as well.

    Args:
        dtype: of the floating-point tensors; none: as they are.
        decoder_only: of a VQGAN, leave the encoder behind: it can draw, but not start from a picture.
        transformer: keep the transformer over a VQGAN in its stead.
        progress: told how many bytes of how many are read.

    Returns:
        The new file's metadata: `kind` (VQModel, GumbelVQ, Net2Net, CLIP, DalleBartEncoder or
        DalleBartDecoder), `source`, `source_sha256`, and for a VQGAN `n_embed` and `embed_dim`.

    Raises:
        WeightsMissing: the source is not there.
        UnsafeCheckpoint: it names classes or functions that are not on the list.
        WeightsUnusable: it cannot be read, or is no network of these.
    """
    import torch

    metadata = {"source": source.name, "source_sha256": sha256_of(source)}
    state = _state_dict(source)
    if transformer:
        kind, tensors = "Net2Net", _transformer(state, source)
    else:
        kind, tensors = _select(state, source, decoder_only)
    if dtype is not None:
        to = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        tensors = {name: t.to(to) if t.is_floating_point() else t for name, t in tensors.items()}
    metadata["kind"] = kind
    total = sum(tensor.nbytes for tensor in tensors.values())
    if kind in _CODEBOOKS:
        codes = tensors[_CODEBOOKS[kind]]
        metadata |= {"n_embed": str(codes.shape[0]), "embed_dim": str(codes.shape[1])}
    save_tensors(target, tensors, metadata, lambda done: progress(done, total))
    return metadata


_CODEBOOKS = {"GumbelVQ": "quantize.embed.weight", "VQModel": "quantize.embedding.weight"}
_DETOKER_CODES = "embedding.weight"  # of min-dalle's file detoker.pt
# numbers that OpenAI's archives hold as tensors, and the mask, which the network makes itself
_NOT_OF_A_CLIP = ("input_resolution", "context_length", "vocab_size", "attn_mask")
_VQGAN_ENCODER = ("encoder.", "quant_conv.")
_VQGAN_DECODER = ("decoder.", "quantize.", "post_quant_conv.")


def _select(
    state: "Mapping[str, Tensor]", source: Path, decoder_only: bool
) -> "tuple[str, dict[str, Tensor]]":
    """The kind of network and the tensors worth keeping, under the names the network gives them."""
    # distributed training and the transformers over a VQGAN put their own prefix before it
    prefixes = ("module.", "first_stage_model.")
    prefix = next((p for p in prefixes if any(name.startswith(p) for name in state)), "")
    inner = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    for kind, codebook in _CODEBOOKS.items():
        if codebook in inner:
            parts = _VQGAN_DECODER if decoder_only else _VQGAN_ENCODER + _VQGAN_DECODER
            return kind, {name: t for name, t in inner.items() if name.startswith(parts)}
    if "logit_scale" in inner and any(name.startswith("visual.") for name in inner):
        return "CLIP", {name: t for name, t in inner.items() if not name.endswith(_NOT_OF_A_CLIP)}
    if "layers.0.glu.fc0.weight" in inner:
        return "DalleBartDecoder" if "lm_head.weight" in inner else "DalleBartEncoder", inner
    if _DETOKER_CODES in inner:
        return "VQModel", _of_detoker(inner)
    raise WeightsUnusable(
        f"{source} is neither a VQGAN (no {' or '.join(_CODEBOOKS.values())}), nor a CLIP (no logit_scale), "
        "nor of min-dalle (no layers.0.glu.fc0.weight)"
    )


def _of_detoker(state: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """min-dalle's VQGAN, which is a decoder alone, as taming-transformers has it.

    Its pictures are in [0, 1], and taming's in [-1, 1]: the last convolution makes the difference.
    """
    named = {name: tensor for name, tensor in state.items() if name.startswith(_VQGAN_DECODER)}
    return named | {
        _CODEBOOKS["VQModel"]: state[_DETOKER_CODES],
        "decoder.conv_out.weight": 2 * state["decoder.conv_out.weight"].float(),
        "decoder.conv_out.bias": 2 * state["decoder.conv_out.bias"].float() - 1,
    }


def _transformer(state: "Mapping[str, Tensor]", source: Path) -> "dict[str, Tensor]":
    """taming-transformers' GPT out of a Net2NetTransformer's checkpoint, under its own names."""
    prefix = "transformer."
    found = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    if "tok_emb.weight" not in found:
        raise WeightsUnusable(f"{source} holds no transformer over a VQGAN (no {prefix}tok_emb.weight)")
    return {name: t for name, t in found.items() if not name.endswith("attn.mask")}


class _Inert:
    """Stands for a class that a checkpoint names: takes any state, keeps none, does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _empty_dict(*args: object) -> dict[Any, Any]:
    return {}


# What Lightning, OmegaConf and argparse leave beside the tensors. The objects themselves are never made:
# each name stands for `_Inert`, or for a plain dict where the pickle fills in items.
_INERT_NAMES = (
    "argparse.Namespace",
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "set", "str", "tuple")),
    "main.CUDACallback",
    "main.ImageLogger",
    "main.SetupCallback",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "typing.Any",
)
_DICT_NAMES = (
    "pytorch_lightning.utilities.cloud_io.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_DICT_FUNCTIONS = ("collections.defaultdict",)  # pickled as a call with the factory for an argument


def _state_dict(source: Path) -> "dict[str, Tensor]":
    """The tensors of a checkpoint; everything else in it becomes nothing."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    if source.suffix == ".safetensors":
        try:
            return load_file(source)
        except SafetensorError as error:
            raise WeightsUnusable(f"{source} cannot be read as safetensors: {error}") from error
    if torchscript.is_archive(source):
        return torchscript.read_tensors(source)
    # a class of its own per name, because checkpoints use such classes as the keys of a dict
    stubs: list[Any] = [(type(name.rpartition(".")[2], (_Inert,), {}), name) for name in _INERT_NAMES]
    stubs += [(dict, name) for name in _DICT_NAMES] + [(_empty_dict, name) for name in _DICT_FUNCTIONS]
    with safe_globals(stubs):
        try:
            unknown = get_unsafe_globals_in_checkpoint(source)
        except ValueError:  # a file of torch before 1.6 has no list to read; loading below refuses by name
            unknown = []
        except Exception as error:  # a damaged archive or pickle can raise anything
            raise WeightsUnusable(f"{source} cannot be read as a checkpoint: {error}") from error
        if unknown:
            raise UnsafeCheckpoint(f"{source} names what is not on the list: {', '.join(sorted(unknown))}")
        try:
            # mapped, so that the optimizer's part of a large file is never read
            mapped = zipfile.is_zipfile(source)
            checkpoint = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            # torch's own message goes on to advise loading it without care
            if named := re.search(r"GLOBAL (\S+)", str(error)):
                raise UnsafeCheckpoint(f"{source} names what is not on the list: {named[1]}") from error
            why = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
            said = why[1] if why else "its pickle is damaged"
            raise WeightsUnusable(f"{source} cannot be read as a checkpoint: {said}") from error
        except Exception as error:
            raise WeightsUnusable(f"{source} cannot be read as a checkpoint: {error}") from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else {}
    return {name: t for name, t in state.items() if isinstance(name, str) and isinstance(t, torch.Tensor)}


def bound(memory: int, seconds: int) -> None:
    """Let this process take so many bytes more than it has, and so much time of a processor; then it ends.

    Not all systems hold a process to the memory: macOS does not.
    """
    memory += _address_space()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _address_space() -> int:
    """Bytes of this process's address space."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux
        return 16 * 2**30
    return pages * resource.getpagesize()


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert one file, saying in lines of JSON what is done; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.weights_io.unpickle", description=__doc__)
    parser.add_argument("source", type=Path, help="the pickled checkpoint")
    parser.add_argument("target", type=Path, help="the safetensors file to write")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], help="default: as the source has it")
    parser.add_argument("--decoder-only", action="store_true", help="leave a VQGAN's encoder behind")
    parser.add_argument(
        "--transformer", action="store_true", help="keep the transformer over a VQGAN instead"
    )
    parser.add_argument("--memory", type=int, help="bytes it may take beside what torch itself does")
    parser.add_argument("--seconds", type=int, default=1800, help="time of a processor that it may take")
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    if options.memory is not None:
        bound(options.memory, options.seconds)
    try:
        metadata = convert(
            options.source,
            options.target,
            dtype=options.dtype,
            decoder_only=options.decoder_only,
            transformer=options.transformer,
            progress=lambda done, total: _tell({"progress": [done, total]}),
        )
    except (WeightsError, OSError) as error:
        _tell({"error": str(error), "type": type(error).__name__})
        return 1
    except (MemoryError, RuntimeError) as error:  # of torch's allocator, too
        _tell({"error": f"{options.source} does not convert: {error}", "type": "WeightsUnusable"})
        return 1
    _tell({"result": {**metadata, "sha256": sha256_of(options.target)}})
    return 0


def _tell(line: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
