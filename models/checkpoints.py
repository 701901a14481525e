"""Weights files: found, checked against their SHA-256, loaded; and pickled checkpoints made safetensors.

`python -m models.checkpoints OLD.ckpt NEW.safetensors` converts a VQGAN's Lightning checkpoint or a CLIP's
`.pt` or `.bin` once; no other part of the project opens a pickle. Nothing here imports torch until it loads.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

DTypeName = Literal["fp32", "fp16", "bf16"]


class WeightsError(RuntimeError):
    """Weights cannot be used."""


class WeightsMissing(WeightsError):
    """A weights file is not there."""


class WeightsCorrupt(WeightsError):
    """A weights file's SHA-256 is not the one its card states."""


class WeightsUnusable(WeightsError):
    """A weights file cannot be read, or its tensors do not fit the network."""


class UnsafeCheckpoint(WeightsError):
    """A pickled checkpoint names classes or functions that are not on the list; none of them was called."""


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, read piece by piece.

    Raises:
        WeightsMissing: it is not there.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise WeightsMissing(f"weights file {path} is not there") from None


def verify(path: Path, sha256: str) -> None:
    """Check that a file is there and is the one meant.

    Args:
        sha256: hexadecimal.

    Raises:
        WeightsMissing: it is not there.
        WeightsCorrupt: it is another file.
    """
    actual = sha256_of(path)
    if actual != sha256.lower():
        raise WeightsCorrupt(f"weights file {path} has SHA-256 {actual}, its card says {sha256.lower()}")


def load_tensors(path: Path, sha256: str | None = None) -> "dict[str, Tensor]":
    """The tensors of a safetensors file by name, on the CPU, in the file's own dtypes.

    Args:
        sha256: what the file must have; none: any file is taken.

    Raises:
        WeightsMissing, WeightsCorrupt: as `verify`.
        WeightsUnusable: it is not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if sha256 is not None:
        verify(path, sha256)
    elif not path.is_file():
        raise WeightsMissing(f"weights file {path} is not there")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsUnusable(f"weights file {path} cannot be read as safetensors: {error}") from error


def save_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all: no reader ever sees a part of it."""
    from safetensors.torch import save_file

    # save_file refuses tensors that share memory, so each gets its own
    own = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    temporary = Path(name)
    try:
        save_file(own, temporary, metadata={"format": "pt", **metadata})
        temporary.chmod(0o644)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)  # the rename itself must outlive a crash
    finally:
        temporary.unlink(missing_ok=True)


def convert(
    source: Path, target: Path, *, dtype: DTypeName | None = None, decoder_only: bool = False
) -> dict[str, str]:
    """Make a safetensors file of an old pickled checkpoint without running anything the pickle names.

    A VQGAN keeps its encoder, decoder, codebook and their two convolutions, out of a transformer's checkpoint
    too; losses, discriminator and optimizer stay behind. A CLIP keeps all its tensors.

    Args:
        dtype: of the floating-point tensors; none: as they are.
        decoder_only: of a VQGAN, leave the encoder behind: it can draw, but not start from a picture.

    Returns:
        The new file's metadata: `kind` (VQModel, GumbelVQ or CLIP), `source`, `source_sha256`, and for a
        VQGAN `n_embed` and `embed_dim`.

    Raises:
        WeightsMissing: the source is not there.
        UnsafeCheckpoint: it names classes or functions that are not on the list.
        WeightsUnusable: it cannot be read, or is neither a VQGAN nor a CLIP.
    """
    import torch

    metadata = {"source": source.name, "source_sha256": sha256_of(source)}
    kind, tensors = _select(_state_dict(source), source, decoder_only)
    if dtype is not None:
        to = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        tensors = {name: t.to(to) if t.is_floating_point() else t for name, t in tensors.items()}
    metadata["kind"] = kind
    if kind != "CLIP":
        codes = tensors[_CODEBOOKS[kind]]
        metadata |= {"n_embed": str(codes.shape[0]), "embed_dim": str(codes.shape[1])}
    save_tensors(target, tensors, metadata)
    return metadata


_CODEBOOKS = {"GumbelVQ": "quantize.embed.weight", "VQModel": "quantize.embedding.weight"}
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
        return "CLIP", inner
    raise WeightsUnusable(
        f"{source} is neither a VQGAN (no {' or '.join(_CODEBOOKS.values())}) nor a CLIP (no logit_scale)"
    )


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
    """The tensors of a pickled checkpoint; everything else in it becomes nothing."""
    import pickle
    import zipfile

    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

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
            raise WeightsUnusable(f"{source} cannot be read as a checkpoint: {error}") from error
        except Exception as error:
            raise WeightsUnusable(f"{source} cannot be read as a checkpoint: {error}") from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else {}
    return {name: t for name, t in state.items() if isinstance(name, str) and isinstance(t, torch.Tensor)}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert one file from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m models.checkpoints",
        description="Make safetensors of an old VQGAN .ckpt or CLIP .pt; runs no code that it names.",
    )
    parser.add_argument("source", type=Path, help="the pickled checkpoint")
    parser.add_argument("target", type=Path, help="the safetensors file to write")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], help="default: as the source has it")
    parser.add_argument("--decoder-only", action="store_true", help="leave a VQGAN's encoder behind")
    options = parser.parse_args(arguments)
    try:
        metadata = convert(
            options.source, options.target, dtype=options.dtype, decoder_only=options.decoder_only
        )
    except (WeightsError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps({**metadata, "sha256": sha256_of(options.target)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
