"""Presets: names of sets of defaults, each computed from the profile of a generator."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from models.requests.generator import Profile
from models.requests.options import DrawingOptions
from models.requests.request import Aspect, Compat, InvalidRequest, Presets, Quality

RATIOS: Mapping[Aspect, float] = {"square": 1, "portrait": 4 / 5, "widescreen": 16 / 9}
"""Width over height."""

SKETCH: Mapping[str, Any] = {
    "edge": 1,  # a whole thing on white, not a part of it
    "learning_rate_hold": 0.5,
    "learning_rate_end": 0.1,
    "beta2": 0.99,
    "templates": ("{prompt}", "an emoji of {prompt}", "clip art of {prompt}", "a picture of {prompt}"),
}
"""Defaults of the generators that draw without a VQGAN."""


@dataclass(frozen=True)
class Effort:
    """The cost of a quality, as shares of that of `normal`."""

    steps: float
    cutouts: float


EFFORTS: Mapping[Quality, Effort] = {
    "draft": Effort(0.5, 0.5),
    "normal": Effort(1, 1),
    "better": Effort(1.5, 1.5),
    "best": Effort(2, 2),
}


@dataclass(frozen=True)
class Program:
    """The defaults of another VQGAN+CLIP program, without its networks.

    Attributes:
        sides: of a square with the area of the program's images, in pixels.
        options: those that differ from the defaults of the generator's `Options`.
    """

    steps: int
    sides: Mapping[Quality, int]
    aspect: Aspect
    options: Mapping[str, Any]
    efforts: Mapping[Quality, Effort]


PROGRAMS: Mapping[Compat, Program] = {
    # K. Crowson, VQGAN+CLIP (z+quantize method), 2021. It draws until it is stopped.
    "crowson": Program(
        steps=500,
        sides={"draft": 480, "normal": 480, "better": 480, "best": 480},
        aspect="square",
        options={"cutout_method": "original", "cutouts": 64, "learning_rate": 0.05},
        efforts=EFFORTS,
    ),
    # https://github.com/nerdyrodent/VQGAN-CLIP; 256 pixels are its size without a GPU
    "nerdyrodent": Program(
        steps=500,
        sides={"draft": 256, "normal": 512, "better": 512, "best": 512},
        aspect="square",
        options={
            "cutout_method": "pooling",
            "cutouts": 32,
            "learning_rate": 0.1,
            "init_method": "gray",
        },
        efforts=EFFORTS,
    ),
    # https://github.com/pixray/pixray
    "pixray": Program(
        steps=250,
        sides={"draft": 144, "normal": 288, "better": 432, "best": 576},
        aspect="widescreen",
        options={
            "cutout_method": "pixray",
            "cutouts": 30,
            "learning_rate": 0.2,
            "learning_rate_drops": (0.75,),
            "start": "perlin",
            "init_method": "angle",
        },
        efforts={
            "draft": Effort(0.8, 0.8),
            "normal": Effort(1, 1),
            "better": Effort(1.2, 1.2),
            "best": Effort(1.4, 0.8),  # its larger CLIPs see fewer views
        },
    ),
}


def apply(
    profile: Profile,
    presets: Presets,
    *,
    sides: Mapping[Quality, int] | None = None,
    programs: Mapping[Compat, Program] | None = None,
) -> Profile:
    """A generator's defaults under presets.

    Args:
        profile: the defaults at normal quality, in its own shape.
        sides: of the squares that suit the networks, in pixels; None: the profile's area is kept.
        programs: the ones whose defaults the generator has.

    Raises:
        InvalidRequest: the generator does not have the defaults of that program.
    """
    quality = presets.quality
    ratio, side = profile.width / profile.height, math.sqrt(profile.width * profile.height)
    steps, options, efforts = profile.steps, profile.options, EFFORTS
    if presets.compat is not None:
        program = (programs or {}).get(presets.compat)
        if program is None:
            raise InvalidRequest(
                "/presets/compat", "unknown_preset", f"this generator has no preset compat={presets.compat}"
            )
        steps, efforts, ratio = program.steps, program.efforts, RATIOS[program.aspect]
        options = type(options).model_validate(program.options)
        sides = sides and program.sides
    if sides:
        side = sides[quality]
    if presets.aspect is not None:
        ratio = RATIOS[presets.aspect]
    if isinstance(options, DrawingOptions):
        cutouts = max(1, round(options.cutouts * efforts[quality].cutouts))
        options = options.model_copy(update={"cutouts": cutouts})
    width, height = shape(profile.size_multiple, side, ratio)
    return replace(
        profile,
        width=width,
        height=height,
        steps=max(1, round(steps * efforts[quality].steps)),
        options=options,
    )


def shape(multiple: int, side: float, ratio: float) -> tuple[int, int]:
    """Width and height in pixels, of about the area of a square.

    Args:
        multiple: both are multiples of it.
        side: of the square, in pixels.
        ratio: width over height.
    """
    return _down_to(multiple, side * math.sqrt(ratio)), _down_to(multiple, side / math.sqrt(ratio))


def refuse_shapes(presets: Presets) -> None:
    """Refuse presets that a generator of one square size does not have.

    Raises:
        InvalidRequest: the presets ask for another shape, or for a program.
    """
    if presets.compat is not None or presets.aspect not in (None, "square"):
        name, value = ("compat", presets.compat) if presets.compat else ("aspect", presets.aspect)
        raise InvalidRequest(
            f"/presets/{name}", "unknown_preset", f"this generator has no preset {name}={value}"
        )


def _down_to(multiple: int, pixels: float) -> int:
    """The next multiple below, or at most a millionth above."""
    return max(1, int(pixels / multiple + 1e-6)) * multiple
