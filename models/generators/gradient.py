"""A color gradient from the seed alone: it reads no prompt and needs no weights, to try the service out.

Each step blends the image from gray a little more to the gradient.
"""

import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from models.requests import checkpoint
from models.requests import presets as known
from models.requests.generator import Drawing, Generate, Profile, Step
from models.requests.network_names import NetworkNames
from models.requests.request import GenerationRequest, Presets

if TYPE_CHECKING:
    from models.networks.shared_networks import Networks


class Options(BaseModel, frozen=True, extra="forbid"):
    """How the gradient is drawn."""

    delay_s: float = Field(0.0, ge=0, le=1, description="seconds to wait at each step, to make a slow job")


def profile(names: NetworkNames, presets: Presets = Presets()) -> Profile:
    """The same with any networks."""
    plain = Profile(width=256, height=256, steps=20, size_multiple=1, options=Options())
    return known.apply(plain, presets)


def check(request: GenerationRequest, options: Options, names: NetworkNames) -> None:
    """Any request can be drawn."""


def load(networks: "Networks") -> Generate:
    """There is nothing to load."""
    return generate


def generate(drawing: Drawing) -> Iterator[Step]:
    """Blend from gray to the gradient: see `models.requests.generator.Generate`."""
    request, seed = drawing.request, drawing.seed
    options, done = Options.model_validate(request.options), 0
    if drawing.resume_from is not None:
        done, _ = checkpoint.unpack(drawing.resume_from, request=request, seed=seed)
    corners = np.random.Generator(np.random.PCG64(seed)).random((2, 2, 3))

    def steps() -> Iterator[Step]:
        for index in range(done + 1, request.steps + 1):
            time.sleep(options.delay_s)
            yield Step(
                index=index,
                total=request.steps,
                render=partial(_render, corners, request, index / request.steps),
                checkpoint=partial(checkpoint.pack, {}, request=request, seed=seed, step=index),
                loss=partial(float, 1 - index / request.steps),
            )

    return steps()


def _render(corners: NDArray[np.float64], request: GenerationRequest, share: float) -> NDArray[np.uint8]:
    """Bilinear between the corners (2, 2, 3), at `share` of the way from gray -> (H, W, 3)"""
    down, right = (np.linspace(0, 1, size)[:, None] for size in (request.height, request.width))
    rows = corners[0] * (1 - down[:, :, None]) + corners[1] * down[:, :, None]  # (H, 2, 3)
    colors = rows[:, :1] * (1 - right) + rows[:, 1:] * right  # (H, W, 3)
    image: NDArray[np.uint8] = np.rint(255 * (0.5 + (colors - 0.5) * share)).astype(np.uint8)
    return image
