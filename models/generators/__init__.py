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
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

from models.requests.request import MAX_SEED, GenerationRequest, InvalidRequest, Presets, Prompt, SaveOptions

if TYPE_CHECKING:
    from models.networks.shared_networks import NetworkNames, Networks


class GenerationError(RuntimeError):
    """A generation cannot go on. Its message is fit for the client's eyes."""


class UnknownGenerator(LookupError):
    """No generator has that name."""


@dataclass(frozen=True)
class Model:
    """What a generator draws with, where that is a model of its own."""

    name: str
    description: str
    license: str
    source: str
    attributions: tuple[str, ...]


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


class GeneratorModule(Protocol):
    """What each module of this package provides; the first line of its docstring describes it to clients."""

    Options: type[BaseModel]  # every field with a default and a description

    def profile(self, names: "NetworkNames", presets: Presets = Presets()) -> Profile:
        """Its defaults with the networks of these names. Reads cards only.

        Raises:
            InvalidRequest: it has no such preset.
        """

    def check(self, request: GenerationRequest, names: "NetworkNames") -> None:
        """What its schema cannot say. Reads cards only.

        Raises:
            InvalidRequest: the request cannot be drawn with the networks of these names.
        """

    def load(self, networks: "Networks") -> ImageGenerator:
        """Load what it draws with. Slow; imports torch."""


def available() -> list[str]:
    """The names a client may ask for. Imports none of them."""
    return sorted(name for _, name, _ in pkgutil.iter_modules(__path__) if not name.startswith("_"))


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
    presets: Presets = Presets(),
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    num_images: int = 1,
    options: Mapping[str, Any] | None = None,
    save: SaveOptions = SaveOptions(),
) -> GenerationRequest:
    """A whole request out of what a caller said: the generator's defaults fill the rest, the seed is drawn.

    Raises:
        UnknownGenerator: no generator has that name.
        pydantic.ValidationError: an option or a value is out of range.
        InvalidRequest: the generator cannot draw that.
    """
    module = find(generator)
    profile = module.profile(names, presets)
    width, height = width or profile.width, height or profile.height
    multiple = profile.size_multiple
    if width % multiple or height % multiple:
        raise InvalidRequest(
            "/height" if width % multiple == 0 else "/width",
            "invalid_size",
            f"{generator} draws sizes that are multiples of {multiple}, not {width}x{height}",
        )
    filled = module.Options.model_validate({**profile.options.model_dump(), **(options or {})})
    if steps is None:
        steps = profile.steps if profile.steps_of is None else profile.steps_of(filled, prompts)
    request = GenerationRequest(
        generator=generator,
        prompts=prompts,
        width=width,
        height=height,
        steps=steps,
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
        num_images=num_images,
        options=filled.model_dump(mode="json"),
        save=save,
    )
    module.check(request, names)
    return request
