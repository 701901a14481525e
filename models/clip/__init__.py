"""CLIP: pictures and texts to vectors of one space. Here are its public names; none of them needs torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Embeddings = NDArray[np.float32]  # (N, D); rows have unit length
Pixels = NDArray[np.uint8]  # (N, 3, R, R); resized and cropped; normalized on the device


class UnknownClip(LookupError):
    """No card has that name."""


class TextTooLong(ValueError):
    """A text has more tokens than the model reads."""


class ClipEncoder(Protocol):
    """A CLIP ready to serve. Any thread may call it; a GPU gains nothing by several at once."""

    name: str
    dimension: int  # D
    image_size: int  # R
    context_length: int  # tokens, both end tokens included
    logit_scale: float  # already exponentiated; about 100
    logit_bias: float | None  # a number for SigLIP: probabilities are sigmoids
    on_cpu: bool  # where several threads may encode at once
    draft_size: (
        int | None
    )  # pixels; a JPEG's shortest side may be decoded so small; none: not smaller than it is

    def preprocess(self, image: Image.Image, *, exact: bool = True) -> Pixels:
        """RGB picture -> (3, R, R) uint8, resized and cropped as the model was trained. Any thread.

        Args:
            exact: to the last bit; else in a third of the time, with one value in 300 off by 1 of 255.
        """

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, both end tokens included. Any thread."""

    def compile(self, batches: Sequence[int], *, graphs: bool) -> None:
        """Compile it for batches of these sizes, to the next of which smaller ones are padded. Slow.

        If this fails, it raises whatever a compiler does, and goes on as it was.

        Args:
            graphs: also capture CUDA graphs, on a GPU.
        """

    def encode_images(self, pixels: Pixels) -> Embeddings:
        """(N, 3, R, R) -> (N, D)"""

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Texts -> (N, D).

        Raises:
            TextTooLong: one has more than `context_length` tokens; none is cut silently.
        """


def load(name: str, weights: Path, device: str = "auto", dtype: str = "fp32") -> ClipEncoder:
    """Load a CLIP. Slow; imports torch.

    Args:
        dtype: fp32, bf16, fp16, int8, or auto (`models.clip.precision`).

    Raises:
        UnknownClip: no card has that name.
        models.weights_io.WeightsMissing: a file is not there.
        models.weights_io.WeightsCorrupt: a file's SHA-256 is not the card's.
        models.weights_io.WeightsUnusable: the files make no network, or a package for it is not installed.
        models.clip.precision.PrecisionUnsupported: the device does not compute in that precision.
    """
    from models.clip.encoder import OpenClipEncoder

    return OpenClipEncoder.load(name, weights, device, dtype)


def use_cores(count: int) -> None:
    """Let what this thread encodes on a CPU run on so many cores. Imports torch."""
    import torch

    torch.set_num_threads(count)
