"""unCLIP, the recipe of DALL-E 2, as in Karlo by Kakao Brain: not OpenAI's. Noise becomes an image."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from models.networks.unclip import read_parts
from models.requests.generator import Drawing, Generate, GenerationError, Profile, Step
from models.requests.network_names import NetworkNames
from models.requests.presets import EFFORTS, refuse_shapes
from models.requests.request import GenerationRequest, InvalidRequest, Presets, Prompt

if TYPE_CHECKING:
    from models.networks.shared_networks import Networks

TIMES = 1000
"""Noise levels in training: the largest number of different steps."""


class Options(BaseModel, frozen=True, extra="forbid"):
    """How many steps each part takes, and how closely they follow the prompt."""

    prior_steps: int = Field(
        25, ge=2, le=TIMES, description="steps from the text to a image's embedding; none with an image"
    )
    decoder_steps: int = Field(
        25, ge=2, le=TIMES, description="steps from the embedding to an image of a quarter of the size"
    )
    upscaling_steps: int = Field(7, ge=2, le=TIMES, description="steps to the whole size")
    prior_guidance: float = Field(
        4,
        ge=1,
        le=20,
        description="how far the embedding goes beyond what is likely without the text: 1: as it was "
        "trained; higher: closer to the text, with less variety",
    )
    decoder_guidance: float = Field(8, ge=1, le=20, description="likewise, of the image and its embedding")


def profile(names: NetworkNames, presets: Presets = Presets()) -> Profile:
    """The one size that it was trained on, and the steps of the pipelines in diffusers."""
    refuse_shapes(presets)
    parts = read_parts(names.unclip, names.weights)
    plain, effort = Options(), EFFORTS[presets.quality].steps
    scaled = {
        name: max(2, round(getattr(plain, name) * effort))
        for name in ("prior_steps", "decoder_steps", "upscaling_steps")
    }
    options = plain.model_copy(update=scaled)
    return Profile(
        width=parts.side,
        height=parts.side,
        steps=_count(options, with_prior=parts.reads_texts),
        steps_of=_steps_of,
        size_multiple=parts.side,
        options=options,
        bytes_per_pixel=parts.bytes_per_pixel(names.dtype),
        weight_bytes=parts.weight_bytes(names.dtype),
        model=parts.model,
    )


def check(request: GenerationRequest, options: Options, names: NetworkNames) -> None:
    """There is one prompt, a text or an image that the models read, and the size and the steps fit."""
    parts = read_parts(names.unclip, names.weights)
    if len(request.prompts) != 1:
        raise InvalidRequest(
            "/prompts",
            "one_prompt",
            f"unclip draws one text, or variations of one image, not {len(request.prompts)} prompts: "
            "a text and an image cannot be mixed",
        )
    [prompt] = request.prompts
    kind = next(
        kind for kind in ("text", "image", "target", "vector", "noise") if getattr(prompt, kind) is not None
    )
    if kind in ("vector", "noise"):
        raise InvalidRequest(f"/prompts/0/{kind}", "text_or_picture", f"unclip draws no {kind}")
    if prompt != Prompt(**{kind: getattr(prompt, kind)}):
        raise InvalidRequest(
            f"/prompts/0/{kind}", "no_weight", "unclip's one prompt has no weight, stop, begin, end or fade"
        )
    if not (parts.reads_texts if kind == "text" else parts.reads_pictures):
        what, lacks = ("texts", "prior") if kind == "text" else ("images", "image encoder")
        raise InvalidRequest(
            f"/prompts/0/{kind}", "not_read", f"{' and '.join(names.unclip)} cannot read {what}: no {lacks}"
        )
    if (request.width, request.height) != (parts.side, parts.side):
        raise InvalidRequest(
            "/width" if request.width != parts.side else "/height",
            "invalid_size",
            f"unclip draws {parts.side}x{parts.side}, not {request.width}x{request.height}",
        )
    if request.steps != (count := _steps_of(options, request.prompts)):
        raise InvalidRequest(
            "/steps",
            "invalid_steps",
            f"the options ask for {count} steps in all, not {request.steps}: leave steps out",
        )


def load(networks: "Networks") -> Generate:
    """Load its networks, and the CLIPs that score."""
    networks.unclip(), networks.guides()
    return partial(generate, networks)


def generate(networks: "Networks", drawing: Drawing) -> Iterator[Step]:
    """Denoise by the text or the image: see `models.requests.generator.Generate`."""
    from models.networks.unclip.unclip_model import Plan, TextTooLong
    from models.sampling.diffusion import denoise

    options = Options.model_validate(drawing.request.options)
    plan, unclip = Plan(**options.model_dump()), networks.unclip()
    [prompt] = drawing.request.prompts
    name = prompt.image or prompt.target
    try:
        if name is not None:
            conditioning = unclip.condition_on_image(drawing.image(name), plan)
        else:
            conditioning = unclip.condition_on_text(prompt.text or "", plan)
    except TextTooLong as error:
        raise GenerationError(f"the prompt is too long: {error}") from error
    return denoise(unclip, conditioning, plan, drawing, networks)


def _steps_of(options: BaseModel, prompts: tuple[Prompt, ...]) -> int:
    assert isinstance(options, Options)
    return _count(options, with_prior=all(prompt.text is not None for prompt in prompts))


def _count(options: Options, *, with_prior: bool) -> int:
    return with_prior * options.prior_steps + options.decoder_steps + options.upscaling_steps
