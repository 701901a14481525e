"""The tensors of a TorchScript archive, as OpenAI published its CLIPs: read as data, its code is not run.

Such a file is a zip of a pickle, of code, and of a record per tensor's bytes. The pickle makes modules of
classes that only the code defines; here each becomes an empty object that takes its attributes.
"""

import pickle
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from models.weights_io import UnsafeCheckpoint, WeightsUnusable

if TYPE_CHECKING:
    from torch import Tensor


def is_archive(source: Path) -> bool:
    """Whether it is a TorchScript archive, and no checkpoint of tensors alone."""
    try:
        with zipfile.ZipFile(source) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_tensors(source: Path) -> "dict[str, Tensor]":
    """The tensors of an archive, each under the names of the modules that hold it, joined by dots.

    Raises:
        UnsafeCheckpoint: its pickle names a class or function that no such archive needs.
        WeightsUnusable: it cannot be read.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/data.pkl"))[: -len("data.pkl")]
            with archive.open(f"{root}data.pkl") as file:
                module = _Reader(file, archive, root, source).load()
    except UnsafeCheckpoint:
        raise
    except Exception as error:  # a damaged archive or pickle can raise anything
        raise WeightsUnusable(f"{source} cannot be read as a TorchScript archive: {error}") from error
    tensors: dict[str, Tensor] = {}
    _collect(module, "", tensors, set())
    return tensors


class _Module:
    """Stands for every class of the archive's code: takes attributes, and does nothing."""


class _Reader(pickle.Unpickler):
    """Resolves no name of the pickle but those that tensors and modules need."""

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile, root: str, source: Path) -> None:
        super().__init__(file)
        self._archive, self._root, self._source = archive, root, source

    def find_class(self, module: str, name: str) -> Any:
        import torch

        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        storage = getattr(torch, name, None) if module == "torch" and name.endswith("Storage") else None
        if storage is not None:
            return storage
        found = _NAMES.get(f"{module}.{name}")
        if found is None:
            raise UnsafeCheckpoint(f"{self._source} names what is not on the list: {module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> "Tensor":
        """The bytes of a tensor, as a row of its numbers."""
        import torch

        _, storage, key, _, _ = pid
        data = bytearray(self._archive.read(f"{self._root}data/{key}"))
        return torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)


def _rebuild_tensor(
    numbers: "Tensor", offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> "Tensor":
    return numbers.as_strided(size, stride, offset)  # refuses what lies outside of the numbers


def _rebuild_parameter(data: "Tensor", *_: Any) -> "Tensor":
    return data


def _rebuild_list(values: list[Any]) -> list[Any]:
    return values


def _empty_dict(*_: Any) -> dict[Any, Any]:
    return {}


_NAMES: dict[str, Any] = {
    "collections.OrderedDict": _empty_dict,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    **{f"torch.jit._pickle.build_{kind}list": _rebuild_list for kind in ("bool", "double", "int", "tensor")},
}


def _collect(module: Any, prefix: str, tensors: "dict[str, Tensor]", seen: set[int]) -> None:
    import torch

    if not isinstance(module, _Module) or id(module) in seen:
        return
    seen.add(id(module))
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            tensors[f"{prefix}{name}"] = value
        else:
            _collect(value, f"{prefix}{name}.", tensors, seen)
