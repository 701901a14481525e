"""What a generator takes and gives: its profile, the steps of a drawing, and the errors."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

from models.requests.request import GenerationRequest, Prompt
from models.weights_io.card import Model


class GenerationError(RuntimeError):
    """A generation cannot go on. Its message is fit for the client's eyes."""


@dataclass(frozen=True)
class Profile:
    """What a generator does where the caller says nothing, and which sizes it can draw."""

    width: int  # pixels
    height: int
    steps: int
    size_multiple: int  # width and height are multiples of it
    options: BaseModel  # an instance of the module's Options
    bytes_per_pixel: float = 0.0  # of the device's memory that a step takes, beside what the guides take
    frugal_bytes_per_pixel: float | None = None  # likewise, drawn frugally; none: the same
    weight_bytes: int = 0  # of networks beside the VQGAN and the guides
    bytes_per_candidate: int = 0  # of what is sampled side by side
    steps_of: Callable[[BaseModel, tuple[Prompt, ...]], int] | None = None  # where options and prompts decide
    model: Model | None = None  # none: it draws with the VQGAN and the guides, or with no network


@dataclass(frozen=True)
class Step:
    """One step of one picture. What waits for the device is a function: call it seldom.

    Each of them raises GenerationError where the drawing has failed, such as when the loss is not finite.
    """

    index: int  # 1 … total
    total: int
    render: Callable[[], NDArray[np.uint8]]  # -> (H, W, 3)
    checkpoint: Callable[[], bytes]  # all that `generate` needs to go on after this step
    loss: Callable[[], float] | None = None
    score: Callable[[], float] | None = None  # cosine of the picture's and the prompts' embeddings
    held_out_score: Callable[[], float | None] | None = None  # likewise, of a CLIP that did not guide
    svg: Callable[[], str] | None = None  # the picture as an SVG document
    ends_early: bool = False  # no step follows, though the index is less than the total

    @property
    def is_last(self) -> bool:
        """Whether no step follows."""
        return self.ends_early or self.index == self.total


class ImageGenerator(Protocol):
    """Draws pictures with networks that are loaded."""

    def generate(
        self,
        request: GenerationRequest,
        *,
        seed: int,
        pictures: Mapping[str, Image.Image],
        checkpoint: bytes | None = None,
        frugal: bool = False,
    ) -> Iterator[Step]:
        """Draw one picture. The caller paces it: to cancel, stop iterating.

        Args:
            seed: of this picture; all randomness comes from it (`request.seed_of`).
            pictures: RGB, by the names that prompts and options use.
            checkpoint: of an earlier run of the same request; this one goes on where it ended, bit for bit.
            frugal: with less of the device's memory and in more time, where there was not enough of it; the
                picture is the same up to rounding.

        Raises:
            GenerationError: it cannot be drawn, such as when the loss is no longer finite.
        """
