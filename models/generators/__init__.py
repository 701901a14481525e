"""Generators: each module turns a request into an image, one step at a time; its name is the client's.

A module provides the functions of `GeneratorModule`. It imports torch inside functions only: the API reads
its `Options` and starts without torch. May import all of models but models.catalog.
"""

import importlib
import pkgutil
import secrets
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, Unpack, cast, get_args

from pydantic import BaseModel

from models.requests.generator import Generate, Profile
from models.requests.network_names import NetworkNames
from models.requests.request import (
    MAX_SEED,
    Aspect,
    Compat,
    GenerationRequest,
    InvalidRequest,
    Presets,
    Quality,
    RequestFields,
    SaveOptions,
)

if TYPE_CHECKING:
    from models.networks.shared_networks import Networks


class UnknownGenerator(LookupError):
    """No generator has that name."""


class GeneratorModule(Protocol):
    """What each module of this package provides. The first line of its docstring describes it to clients."""

    Options: type[BaseModel]  # every field with a default and a description

    def profile(self, names: NetworkNames, presets: Presets = Presets()) -> Profile:
        """Its defaults with the networks of these names. Reads cards only.

        Raises:
            InvalidRequest: it has no such preset.
        """

    def check(self, request: GenerationRequest, options: Any, names: NetworkNames) -> None:
        """Check what the schema cannot express. Reads cards only.

        Args:
            options: the request's, as an instance of `Options`.

        Raises:
            InvalidRequest: the request cannot be drawn with the networks of these names.
        """

    def load(self, networks: "Networks") -> Generate:
        """Load the networks that it draws with. Slow; imports torch."""


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
    """The description of a generator, one sentence."""
    module = cast(ModuleType, find(name))
    return (module.__doc__ or "").partition("\n")[0]


def complete(names: NetworkNames, **fields: Unpack[RequestFields]) -> GenerationRequest:
    """A complete request: defaults of the generator for all that is None or missing, and a random seed.

    Raises:
        UnknownGenerator: no generator has that name.
        pydantic.ValidationError: an option or a value is out of range.
        InvalidRequest: the generator cannot draw the request.
    """
    if unknown := fields.keys() - RequestFields.__annotations__.keys():
        raise TypeError(f"a request has no {', '.join(sorted(unknown))}")
    generator, prompts, seed = fields["generator"], fields["prompts"], fields.get("seed")
    module = find(generator)
    profile = module.profile(names, fields.get("presets", Presets()))
    width, height = fields.get("width") or profile.width, fields.get("height") or profile.height
    multiple = profile.size_multiple
    if width % multiple or height % multiple:
        raise InvalidRequest(
            "/height" if width % multiple == 0 else "/width",
            "invalid_size",
            f"{generator} draws sizes that are multiples of {multiple}, not {width}x{height}",
        )
    options = module.Options.model_validate(profile.options.model_dump() | dict(fields.get("options") or {}))
    if (steps := fields.get("steps")) is None:
        steps = profile.steps if profile.steps_of is None else profile.steps_of(options, prompts)
    request = GenerationRequest(
        generator=generator,
        prompts=prompts,
        width=width,
        height=height,
        steps=steps,
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
        num_images=fields.get("num_images", 1),
        options=options.model_dump(mode="json"),
        save=fields.get("save", SaveOptions()),
    )
    module.check(request, options, names)
    return request


def preset_changes(module: GeneratorModule, names: NetworkNames) -> dict[str, dict[str, dict[str, Any]]]:
    """The defaults that each preset of a generator changes.

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
