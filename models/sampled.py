"""What is asked of pictures that are sampled: one size, a step for each code, and candidates for quality."""

from models.generators import Profile
from models.memory import decoder_bytes
from models.options import SamplingOptions
from models.presets import EFFORTS
from models.requests import GenerationRequest, InvalidRequest, Presets
from models.vqgan import Card, TransformerFile

AT_ONCE = 8
"""Candidates that are decoded and seen by CLIP at once."""

_PASSING = 0.25
"""Of what a decoder keeps for a way back, what it holds at once where there is none."""


def profile_of(
    card: Card, file: TransformerFile | None, options: SamplingOptions, presets: Presets
) -> Profile:
    """The profile of a generator that samples a VQGAN's codes.

    Args:
        file: of its transformer; none: the VQGAN has none, so that nothing can be drawn.

    Raises:
        InvalidRequest: it has no such shape, and stands in for no program.
    """
    if presets.compat is not None or presets.aspect not in (None, "square"):
        name, value = ("compat", presets.compat) if presets.compat else ("aspect", presets.aspect)
        raise InvalidRequest(
            f"/presets/{name}", "unknown_preset", f"this generator has no preset {name}={value}"
        )
    candidates = max(1, round(options.candidates * EFFORTS[presets.quality].cutouts))
    side, factor = card.config.ddconfig.resolution, card.config.factor
    return Profile(
        width=side,
        height=side,
        steps=(side // factor) ** 2,
        size_multiple=side,
        options=options.model_copy(update={"candidates": candidates}),
        bytes_per_pixel=AT_ONCE * _PASSING * decoder_bytes(card.config, "fp32"),
        weight_bytes=file.weight_bytes if file is not None else 0,
        bytes_per_candidate=file.cache_bytes if file is not None else 0,
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
