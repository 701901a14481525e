"""The profile and the checks of generators that sample: one size, a step for each code."""

from models.networks.footprint import decoder_bytes
from models.networks.vqgan import VqganConfig
from models.requests.generator import Profile
from models.requests.options import SamplingOptions
from models.requests.presets import EFFORTS, refuse_shapes
from models.requests.request import GenerationRequest, InvalidRequest, Presets
from models.weights_io.card import Model

AT_ONCE = 8
"""Candidates that are decoded and scored by CLIP in one batch."""

_PASSING = 0.25
"""Memory of a decoder without gradients, as a share of its memory with them."""


def profile_of(
    config: VqganConfig,
    options: SamplingOptions,
    presets: Presets,
    *,
    weight_bytes: int,
    bytes_per_candidate: int,
    model: Model | None = None,
) -> Profile:
    """The profile of a generator that samples a VQGAN's codes.

    Args:
        options: at normal quality.
        weight_bytes, bytes_per_candidate, model: as of `Profile`.

    Raises:
        InvalidRequest: the presets ask for another shape, or for a program.
    """
    refuse_shapes(presets)
    candidates = max(1, round(options.candidates * EFFORTS[presets.quality].cutouts))
    side, factor = config.ddconfig.resolution, config.factor
    return Profile(
        width=side,
        height=side,
        steps=(side // factor) ** 2,
        size_multiple=side,
        options=options.model_copy(update={"candidates": candidates}),
        bytes_per_pixel=AT_ONCE * _PASSING * decoder_bytes(config, "fp32"),
        weight_bytes=weight_bytes,
        bytes_per_candidate=bytes_per_candidate,
        model=model,
    )


def check(request: GenerationRequest, profile: Profile) -> None:
    """Check that the request has the size and the steps of the profile.

    Raises:
        InvalidRequest: it has others.
    """
    if (request.width, request.height) != (profile.width, profile.height):
        raise InvalidRequest(
            "/width" if request.width != profile.width else "/height",
            "invalid_size",
            f"{request.generator} draws {profile.width}x{profile.height} with this VQGAN, "
            f"not {request.width}x{request.height}",
        )
    if request.steps != profile.steps:
        raise InvalidRequest(
            "/steps",
            "invalid_steps",
            f"{request.generator} takes a step for each code, {profile.steps} in all, not {request.steps}",
        )


def check_texts(request: GenerationRequest) -> None:
    """Check that all prompts are texts, and one has a weight above 0.

    Raises:
        InvalidRequest: a prompt is no text, or nothing is to be drawn.
    """
    for index, prompt in enumerate(request.prompts):
        if prompt.text is None:
            raise InvalidRequest(f"/prompts/{index}", "text_only", f"{request.generator} reads texts only")
    if all(prompt.weight_at(0) <= 0 for prompt in request.prompts):
        raise InvalidRequest(
            "/prompts", "nothing_to_draw", f"{request.generator} needs a text with a weight above 0"
        )
