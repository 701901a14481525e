"""Checkpoints: the state that a drawing resumes from, bit for bit, as bytes."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from models.requests.request import GenerationRequest

if TYPE_CHECKING:
    from torch import Tensor

Arrays = Mapping[str, NDArray[np.generic]]

_DIGEST = hashlib.sha256().digest_size


class CheckpointUnusable(ValueError):
    """A checkpoint is damaged or of another request. Drawing from the start still works."""


def pack(arrays: Arrays, *, request: GenerationRequest, seed: int, step: int) -> bytes:
    """The state of a drawing after `step` steps. Arrays keep their dtype and shape."""
    # safetensors writes the memory as it lies: copy each array into C order
    payload = save(
        {name: np.array(array, order="C") for name, array in arrays.items()}
        | {"step": np.array([step], dtype=np.int64), "request": _fingerprint(request, seed)}
    )
    return hashlib.sha256(payload).digest() + payload


def unpack(
    checkpoint: bytes, *, request: GenerationRequest, seed: int
) -> tuple[int, dict[str, NDArray[np.generic]]]:
    """The number of steps done and the arrays by name, as `pack` was given them.

    Raises:
        CheckpointUnusable: it is damaged, or not of this request and seed.
    """
    digest, payload = checkpoint[:_DIGEST], checkpoint[_DIGEST:]
    if hashlib.sha256(payload).digest() != digest:
        raise CheckpointUnusable("the checkpoint is damaged: its SHA-256 is not the one it was saved with")
    try:
        arrays: dict[str, NDArray[np.generic]] = dict(load(payload))
    except SafetensorError as error:
        raise CheckpointUnusable(f"the checkpoint is not a safetensors file: {error}") from error
    if not np.array_equal(arrays.pop("request", np.zeros(0)), _fingerprint(request, seed)):
        raise CheckpointUnusable("the checkpoint is of another request")
    step = int(arrays.pop("step")[0])
    return step, arrays


def take(arrays: Arrays, name: str, like: NDArray[np.generic]) -> NDArray[np.generic]:
    """One array of a checkpoint.

    Raises:
        CheckpointUnusable: there is none of that name, shape and dtype.
    """
    array = arrays.get(name)
    if array is None or (array.shape, array.dtype) != (like.shape, like.dtype):
        raise CheckpointUnusable(f"the checkpoint has no {name!r} of {like.dtype}{list(like.shape)}")
    return array


def take_tensor(arrays: Arrays, name: str, like: "Tensor") -> "Tensor":
    """One tensor of a checkpoint, on the device of `like`. Errors as `take`."""
    from torch import from_numpy

    return from_numpy(np.array(take(arrays, name, like.cpu().numpy()))).to(like.device)


def _fingerprint(request: GenerationRequest, seed: int) -> NDArray[np.uint8]:
    text = json.dumps([request.model_dump(mode="json"), seed], sort_keys=True)
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8)
