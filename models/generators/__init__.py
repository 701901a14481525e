"""Generators: each module of this package turns a request into a picture, one step at a time.

The name a client asks for is the name of the module. A module provides what `GeneratorModule` says and
imports torch inside its functions only, because the API reads its `Options` and must start without torch.
"""

import importlib
import pkgutil
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field, model_validator

if TYPE_CHECKING:
    from models.networks import NetworkNames, Networks

MAX_PROMPTS = 16
MAX_SEED = 2**32 - 1

PictureName = Annotated[str, Field(json_schema_extra={"format": "image"})]
"""A picture among a request's inputs. Over HTTP a client sends the picture itself in this place."""


class GenerationError(RuntimeError):
    """A generation cannot go on. Its message is fit for the client's eyes."""


class UnknownGenerator(LookupError):
    """No generator has that name."""


class Prompt(BaseModel, frozen=True, extra="forbid"):
    """A text or a picture to draw towards; a negative weight draws away from it."""

    text: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    image: PictureName | None = None
    weight: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] = 1.0
    stop: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] | None = Field(
        None, description="signed distance below which this prompt no longer pulls; none: always pulls"
    )

    @model_validator(mode="after")
    def _text_or_image(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise ValueError("a prompt is either a text or an image")
        return self


class GenerationRequest(BaseModel, frozen=True, extra="forbid"):
    """All that decides a picture: the same request gives the same bytes on the same machine and versions."""

    generator: str
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=MAX_PROMPTS)]
    width: Annotated[int, Field(ge=16, le=4096)]  # pixels
    height: Annotated[int, Field(ge=16, le=4096)]
    steps: Annotated[int, Field(ge=1, le=10_000)]
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    num_images: Annotated[int, Field(ge=1, le=16)] = 1
    options: dict[str, Any] = {}  # complete: every field of the generator's own Options

    def seed_of(self, image: int) -> int:
        """The seed of one picture of several; picture 0 has the request's own.

        They are a golden ratio of 2**32 apart, so that those of neighboring requests do not meet (Knuth,
        The Art of Computer Programming 3, 6.4).
        """
        return (self.seed + image * 0x9E3779B1) % (MAX_SEED + 1)


@dataclass(frozen=True)
class Profile:
    """What a generator does where the caller says nothing, and which sizes it can draw."""

    width: int  # pixels
    height: int
    steps: int
    size_multiple: int  # width and height are multiples of it
    options: BaseModel  # an instance of the module's Options


@dataclass(frozen=True)
class Step:
    """One step of one picture. What waits for the device is a function: call it seldom."""

    index: int  # 1 … total
    total: int
    render: Callable[[], NDArray[np.uint8]]  # -> (H, W, 3)
    checkpoint: Callable[[], bytes]  # all that `generate` needs to go on after this step
    loss: Callable[[], float] | None = None
    score: Callable[[], float] | None = None  # cosine of the picture's and the prompts' embeddings


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


class GeneratorModule(Protocol):
    """What each module of this package provides; the first line of its docstring describes it to clients."""

    Options: type[BaseModel]  # every field with a default and a description

    def profile(self, names: "NetworkNames") -> Profile:
        """Its defaults with the networks of these names. Reads cards only."""

    def load(self, networks: "Networks") -> ImageGenerator:
        """Load what it draws with. Slow; imports torch."""


def available() -> list[str]:
    """The names a client may ask for. Imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> GeneratorModule:
    """The module of that name.

    Raises:
        UnknownGenerator: there is none.
    """
    if name not in available():
        raise UnknownGenerator(f"no generator {name!r}; there are {', '.join(available())}")
    return cast(GeneratorModule, importlib.import_module(f"{__name__}.{name}"))


def describe(name: str) -> str:
    """What a generator is, in one sentence."""
    module = cast(ModuleType, find(name))
    return (module.__doc__ or "").partition("\n")[0]


def complete(
    names: "NetworkNames",
    *,
    generator: str,
    prompts: tuple[Prompt, ...],
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    num_images: int = 1,
    options: Mapping[str, Any] | None = None,
) -> GenerationRequest:
    """A whole request out of what a caller said: the generator's defaults fill the rest, the seed is drawn.

    Raises:
        UnknownGenerator: no generator has that name.
        pydantic.ValidationError: an option or a value is out of range.
        ValueError: the generator cannot draw that size.
    """
    module = find(generator)
    profile = module.profile(names)
    width, height = width or profile.width, height or profile.height
    if width % profile.size_multiple or height % profile.size_multiple:
        raise ValueError(
            f"{generator} draws sizes that are multiples of {profile.size_multiple}, not {width}x{height}"
        )
    filled = module.Options.model_validate({**profile.options.model_dump(), **(options or {})})
    return GenerationRequest(
        generator=generator,
        prompts=prompts,
        width=width,
        height=height,
        steps=profile.steps if steps is None else steps,
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
        num_images=num_images,
        options=filled.model_dump(mode="json"),
    )
