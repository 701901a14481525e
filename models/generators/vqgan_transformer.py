"""A VQGAN's own transformer: draws a class, anything it knows, or the lower part of a given image."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from models.networks.vqgan import read_card
from models.requests.generator import Drawing, Generate, Profile, Step
from models.requests.network_names import NetworkNames
from models.requests.options import CompletingOptions
from models.requests.prompts import check_prompts
from models.requests.request import GenerationRequest, InvalidRequest, Presets
from models.sampling import profile as sampled

if TYPE_CHECKING:
    from models.networks.shared_networks import Networks


class Options(CompletingOptions, frozen=True, extra="forbid"):
    """Which class is drawn; the prompts only select among the candidates."""

    label: int = Field(
        0, ge=0, le=65_535, description="number of the class to draw, where the transformer knows classes"
    )


def profile(names: NetworkNames, presets: Presets = Presets()) -> Profile:
    """The one size that it was trained on, and a step for each code."""
    card = read_card(names.vqgan, names.weights)
    options = Options(templates=card.drawing.get("templates", ("{prompt}",)))
    file = card.transformer or card.dalle  # without one, nothing can be drawn
    return sampled.profile_of(
        card.config,
        options,
        presets,
        weight_bytes=file.weight_bytes if file else 0,
        bytes_per_candidate=file.cache_bytes if file else 0,
    )


def check(request: GenerationRequest, options: Options, names: NetworkNames) -> None:
    """The VQGAN has a transformer, which knows the class."""
    card = read_card(names.vqgan, names.weights)
    if card.transformer is None and card.dalle is None:
        raise InvalidRequest("/generator", "no_transformer", f"the VQGAN {names.vqgan} has no transformer")
    sampled.check(request, profile(names))
    classes = card.transformer.classes if card.transformer is not None else 0
    label = options.label
    if label >= max(1, classes):
        there_are = f"there are {classes}, from 0" if classes else "this transformer knows none, so it is 0"
        raise InvalidRequest("/options/label", "unknown_label", f"no class {label}; {there_are}")
    check_prompts(request, options, names)


def load(networks: "Networks") -> Generate:
    """Load the transformer, or where the VQGAN has one for texts only, that, and the CLIPs that rank."""
    networks.vqgan(), networks.guides()
    _ = networks.transformer() or networks.dalle()
    return partial(generate, networks)


def generate(networks: "Networks", drawing: Drawing) -> Iterator[Step]:
    """Sample codes by the class: see `models.requests.generator.Generate`."""
    from models.networks.autoregressive import condition_on_class
    from models.sampling.candidates import Candidates, unconditioned

    options = Options.model_validate(drawing.request.options)
    transformer = networks.transformer()
    conditioning = (
        unconditioned(networks) if transformer is None else condition_on_class(transformer, options.label)
    )
    return Candidates(conditioning, networks.vqgan(), drawing, options, networks).steps()
