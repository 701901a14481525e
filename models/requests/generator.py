"""What a generator takes and gives: the drawing, its steps, the profile and the error."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

from models.requests.request import GenerationRequest, Prompt
from models.weights_io.card import Model


class GenerationError(RuntimeError):
    """The image cannot be drawn. Clients see the message."""


@dataclass(frozen=True)
class Drawing:
    """One image to draw.

    Attributes:
        request: what to draw, and with which options.
        seed: the source of all randomness of this image (`GenerationRequest.seed_of`).
        images: RGB images, by the names that prompts and options use.
        resume_from: a checkpoint of the same request and seed. Drawing continues after its step, bit for bit.
        low_memory: use less device memory and more time. The image is the same up to rounding.
    """

    request: GenerationRequest
    seed: int
    images: Mapping[str, Image.Image] = field(default_factory=dict)
    resume_from: bytes | None = None
    low_memory: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.request.height, self.request.width

    def image(self, name: str) -> Image.Image:
        """The image that the request calls `name`.

        Raises:
            GenerationError: there is none.
        """
        if name not in self.images:
            raise GenerationError(f"the image {name!r} is not there")
        return self.images[name]


@dataclass(frozen=True)
class Profile:
    """The defaults of a generator, the sizes that it draws, and the device memory that it takes."""

    width: int  # pixels
    height: int
    steps: int
    size_multiple: int  # width and height are multiples of it
    options: BaseModel  # an instance of the module's Options
    bytes_per_pixel: float = 0.0  # memory of a step, beside that of the guides
    low_memory_bytes_per_pixel: float | None = None  # likewise with low memory; None: the same
    weight_bytes: int = 0  # of networks beside the VQGAN and the guides
    bytes_per_candidate: int = 0  # of each candidate that is sampled
    steps_of: Callable[[BaseModel, tuple[Prompt, ...]], int] | None = None  # steps by options and prompts
    model: Model | None = None  # None: the generator draws with the VQGAN and the guides, or no network


@dataclass(frozen=True)
class Step:
    """One step of one image. Fields that need a device sync are callables; each call blocks.

    Each of them raises GenerationError if the drawing has failed, such as when the loss is not finite.
    """

    index: int  # 1 … total
    total: int
    render: Callable[[], NDArray[np.uint8]]  # -> (H, W, 3)
    checkpoint: Callable[[], bytes]  # the state that a drawing resumes from after this step
    loss: Callable[[], float] | None = None
    score: Callable[[], float] | None = None  # cosine similarity of the image and the prompts
    held_out_score: Callable[[], float | None] | None = None  # likewise, by a CLIP that did not guide
    svg: Callable[[], str] | None = None  # the image as an SVG document
    ends_early: bool = False  # no step follows, although the index is less than the total

    @property
    def is_last(self) -> bool:
        """Whether no step follows."""
        return self.ends_early or self.index == self.total


Generate = Callable[[Drawing], Iterator[Step]]
"""A generator whose networks are loaded. The caller paces the steps: to cancel, stop iterating.

Raises:
    CheckpointUnusable: at once; `Drawing.resume_from` is damaged or of another request.
    GenerationError: at once or from a step; the image cannot be drawn.
"""
