"""Weights files: found, checked against their SHA-256, loaded and saved. None is a pickle.

Nothing here imports torch until it loads.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SUMS = "SHA256SUMS"
"""Beside weights that were fetched or converted here: what they were then, as `sha256sum` writes it."""


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
        raise WeightsCorrupt(f"weights file {path} has SHA-256 {actual}, expected {sha256.lower()}")


def recorded_sha256(path: Path) -> str | None:
    """What a weights file was when it came here; none: nobody wrote it down."""
    return read_sums(path.parent).get(path.name)


def read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 by file name, of the folder's `SHA256SUMS`; empty: it has none that can be read."""
    try:
        lines = (folder / SUMS).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = [line.split("  ", 1) for line in lines if "  " in line]
    return {name: sha256 for sha256, name in pairs}


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Write the folder's `SHA256SUMS`, whole or not at all."""
    new = folder / f".{SUMS}"
    new.write_text("".join(f"{sha256}  {name}\n" for name, sha256 in sorted(sums.items())), "utf-8")
    new.replace(folder / SUMS)


def load_tensors(path: Path, sha256: str | None = None) -> "dict[str, Tensor]":
    """The tensors of a safetensors file by name, on the CPU, in the file's own dtypes; packed ones in fp32.

    Args:
        sha256: what the file must have; none: what it had when it came here, if that is known.

    Raises:
        WeightsMissing, WeightsCorrupt: as `verify`.
        WeightsUnusable: it is not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from models.weights_io.quantize import unpack

    sha256 = sha256 or recorded_sha256(path)
    if sha256 is not None:
        verify(path, sha256)
    elif not path.is_file():
        raise WeightsMissing(f"weights file {path} is not there")
    try:
        return unpack(load_file(path))
    except SafetensorError as error:
        raise WeightsUnusable(f"weights file {path} cannot be read as safetensors: {error}") from error


def differences(
    tensors: "Mapping[str, Tensor]", expected: "Mapping[str, Tensor]", loose: tuple[str, ...] = ()
) -> str:
    """How tensors differ from those that a network has, by name and by shape; empty: not at all.

    Args:
        loose: ends of names that may differ.
    """
    problems = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{name} is not expected" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name} is {list(tensors[name].shape)}, expected {list(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    problems = sorted(line for line in problems if not line.partition(" ")[0].endswith(loose))
    return f"{len(problems)} tensors differ: {'; '.join(problems[:8])}" if problems else ""


def save_tensors(
    path: Path,
    tensors: "Mapping[str, Tensor]",
    metadata: Mapping[str, str],
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write a safetensors file whole or not at all: no reader ever sees a part of it.

    Args:
        progress: told the bytes of the tensors that are read so far.
    """
    from safetensors.torch import save_file

    own: dict[str, Tensor] = {}
    done = 0
    for name, tensor in tensors.items():
        own[name] = tensor.detach().clone().contiguous()  # save_file refuses tensors that share memory
        done += own[name].nbytes
        progress(done)
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


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
