"""Generators: each module of this package turns a request into a picture, one step at a time.

The name a client asks for is the name of the module. A module provides what `GeneratorModule` says and
imports torch inside its functions only, because the API reads its `Options` and must start without torch.
"""

import importlib
import pkgutil
import secrets
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast, get_args

from pydantic import BaseModel

from models.requests.generator import ImageGenerator, Profile
from models.requests.network_names import NetworkNames
from models.requests.request import (
    MAX_SEED,
    Aspect,
    Compat,
    GenerationRequest,
    InvalidRequest,
    Presets,
    Prompt,
    Quality,
    SaveOptions,
)

if TYPE_CHECKING:
    from models.networks.shared_networks import Networks


class UnknownGenerator(LookupError):
    """No generator has that name."""


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


def preset_changes(module: GeneratorModule, names: "NetworkNames") -> dict[str, dict[str, dict[str, Any]]]:
    """What each preset that a generator has changes of its defaults.

    Returns:
        `{"quality": {"draft": {"steps": 35, "options": {"cutouts": 8}}, …}, "aspect": …, "compat": …}`
    """
    plain = module.profile(names)
    answer: dict[str, dict[str, dict[str, Any]]] = {}
    for preset, words in (("quality", Quality), ("aspect", Aspect), ("compat", Compat)):
        answer[preset] = {}
        for word in get_args(words):
            try:
                profile = module.profile(names, Presets.model_validate({preset: word}))
            except InvalidRequest:
                continue
            changed = {key: getattr(profile, key) for key in ("width", "height", "steps")}
            changed = {key: value for key, value in changed.items() if value != getattr(plain, key)}
            options, defaults = (given.options.model_dump(mode="json") for given in (profile, plain))
            differing = {key: value for key, value in options.items() if value != defaults[key]}
            answer[preset][word] = changed | ({"options": differing} if differing else {})
    return answer
