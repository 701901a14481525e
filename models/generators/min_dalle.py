"""DALL-E mini or mega by Dayma et al., not OpenAI's DALL-E: a text becomes codes, CLIP selects the best."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from models.networks.footprint import vqgan_weights
from models.networks.min_dalle import read_card
from models.requests.generator import Drawing, Generate, GenerationError, Profile, Step
from models.requests.network_names import NetworkNames
from models.requests.options import SamplingOptions
from models.requests.prompts import check_prompts
from models.requests.request import GenerationRequest, InvalidRequest, Presets
from models.sampling import profile as sampled
from models.weights_io.card import Model

if TYPE_CHECKING:
    from models.networks.shared_networks import Networks


class Options(SamplingOptions, frozen=True, extra="forbid"):
    """How it is sampled, and how closely it follows the text."""

    guidance: float = Field(
        16,
        ge=0,
        le=64,
        description="how far to go beyond what is likely without the text: 0: no text, 1: as it was trained; "
        "higher: closer to the text, with less variety. min-dalle calls it the supercondition factor",
    )


def profile(names: NetworkNames, presets: Presets = Presets()) -> Profile:
    """The one size that it was trained on, and a step for each code."""
    card = read_card(names.min_dalle, names.weights)
    return sampled.profile_of(
        card.config,
        Options(candidates=8, top_k=256, top_p=1),  # the last two as min-dalle
        presets,
        weight_bytes=card.weight_bytes(names.dtype) + vqgan_weights(card.config),
        bytes_per_candidate=card.cache_bytes(names.dtype),
        model=Model(card.name, card.description, card.license, card.source, card.attributions),
    )


def check(request: GenerationRequest, options: Options, names: NetworkNames) -> None:
    """There are texts alone, and something to read in each."""
    from models.networks.min_dalle.bpe import readable

    sampled.check(request, profile(names))
    sampled.check_texts(request)
    for index, prompt in enumerate(request.prompts):
        if not readable(prompt.text or ""):
            raise InvalidRequest(
                f"/prompts/{index}", "unreadable", "min_dalle reads English: this text has no letter of ASCII"
            )
    check_prompts(request, options, names)


def load(networks: "Networks") -> Generate:
    """Load the model and the CLIPs that rank."""
    networks.min_dalle(), networks.guides()
    return partial(generate, networks)


def generate(networks: "Networks", drawing: Drawing) -> Iterator[Step]:
    """Sample codes by the texts: see `models.requests.generator.Generate`."""
    from models.networks.min_dalle.min_dalle_model import TextTooLong
    from models.sampling.candidates import Candidates

    options = Options.model_validate(drawing.request.options)
    model = networks.min_dalle()
    weighted = [(prompt.text or "", prompt.weight_at(0)) for prompt in drawing.request.prompts]
    texts, weights = zip(*[(text, weight) for text, weight in weighted if weight], strict=True)
    try:
        conditioning = model.condition_on_texts(texts, weights, options.guidance)
    except TextTooLong as error:
        raise GenerationError(f"the prompt is too long: {error}") from error
    return Candidates(conditioning, model.vqgan, drawing, options, networks).steps()
