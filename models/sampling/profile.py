"""What is asked of pictures that are sampled: one size, a step for each code, and candidates for quality."""

from models.networks.footprint import decoder_bytes
from models.networks.vqgan import VqganConfig
from models.requests.generator import Profile
from models.requests.options import SamplingOptions
from models.requests.presets import EFFORTS, refuse_shapes
from models.requests.request import GenerationRequest, InvalidRequest, Presets
from models.weights_io.card import Model

AT_ONCE = 8
"""Candidates that are decoded and seen by CLIP at once."""

_PASSING = 0.25
"""Of what a decoder keeps for a way back, what it holds at once where there is none."""


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
        InvalidRequest: it has no such shape, and stands in for no program.
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
    """The request has the size and the steps of the profile.

    Raises:
        InvalidRequest: it has not.
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
            f"{request.generator} takes a step for each code, which are {profile.steps}, not {request.steps}",
        )


def check_texts(request: GenerationRequest) -> None:
    """There are texts alone, and one to draw.

    Raises:
        InvalidRequest: there is something else, or nothing to draw.
    """
    for index, prompt in enumerate(request.prompts):
        if prompt.text is None:
            raise InvalidRequest(f"/prompts/{index}", "text_only", f"{request.generator} reads texts only")
    if all(prompt.weight_at(0) <= 0 for prompt in request.prompts):
        raise InvalidRequest(
            "/prompts", "nothing_to_draw", f"{request.generator} needs a text with a weight above 0"
        )
