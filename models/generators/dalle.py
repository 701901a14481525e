"""A small DALL-E: a transformer goes on from a text with a image's codes, and CLIP picks the best."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from models.clip.cards import find_card
from models.networks.footprint import guide_memory
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
    """How it is sampled, and how closely it follows the text."""

    guidance: float = Field(
        3,
        ge=0,
        le=20,
        description="how far to go beyond what is likely without the text: 0: no text; 1: as trained",
    )


def profile(names: NetworkNames, presets: Presets = Presets()) -> Profile:
    """The one size that it was trained on, and a step for each code."""
    card = read_card(names.vqgan, names.weights)
    options = Options(templates=card.drawing.get("templates", ("{prompt}",)))
    weights = sequence = 0
    if card.dalle is not None:  # else nothing can be drawn
        weights, sequence = card.dalle.weight_bytes, card.dalle.cache_bytes
        if card.dalle.clip not in names.clips:
            weights += guide_memory(find_card(card.dalle.clip, names.weights), names.weights)[0]
    return sampled.profile_of(
        card.config, options, presets, weight_bytes=weights, bytes_per_candidate=sequence
    )


def check(request: GenerationRequest, options: Options, names: NetworkNames) -> None:
    """The VQGAN has a transformer that reads texts, and there is one to draw."""
    if read_card(names.vqgan, names.weights).dalle is None:
        raise InvalidRequest("/generator", "no_dalle", f"the VQGAN {names.vqgan} has no dalle")
    sampled.check(request, profile(names))
    sampled.check_texts(request)
    check_prompts(request, options, names)


def load(networks: "Networks") -> Generate:
    """Load the VQGAN, its prior and dalle, and the CLIPs that rank."""
    networks.vqgan(), networks.prior(), networks.dalle(), networks.guides()
    return partial(generate, networks)


def generate(networks: "Networks", drawing: Drawing) -> Iterator[Step]:
    """Sample codes by the texts: see `models.requests.generator.Generate`."""
    from models.sampling.candidates import Candidates, condition_on_text

    options = Options.model_validate(drawing.request.options)
    conditioning = condition_on_text(drawing.request, options.guidance, networks)
    return Candidates(conditioning, networks.vqgan(), drawing, options, networks).steps()
