"""Pixel art: a small grid of colors, moved until CLIP finds the prompt in it; needs no VQGAN."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from PIL import Image
from pydantic import Field

from models.generators import ImageGenerator, Profile, Step
from models.options import DrawingOptions
from models.requests import GenerationRequest, Presets

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models.motion import Motion
    from models.networks import NetworkNames, Networks


class Options(DrawingOptions, frozen=True, extra="forbid"):
    """How the grid is drawn."""

    columns: int = Field(32, ge=2, le=512, description="cells from left to right")
    rows: int = Field(32, ge=2, le=512, description="cells from top to bottom")


def profile(names: "NetworkNames", presets: Presets = Presets()) -> Profile:
    """Squares of 8 pixels."""
    options = Options(
        cutouts=8,
        learning_rate=0.05,
        learning_rate_hold=0.5,
        learning_rate_end=0.1,
        beta2=0.99,
        smoothness=0.3,
        contrast=0.1,
        templates=("{prompt}", "an emoji of {prompt}", "clip art of {prompt}", "a picture of {prompt}"),
    )
    return Profile(width=256, height=256, steps=80, size_multiple=1, options=options)


def check(request: GenerationRequest, names: "NetworkNames") -> None:
    """Any request can be drawn."""


def load(networks: "Networks") -> ImageGenerator:
    """Load the CLIPs that guide."""
    networks.guides()
    return Pixels(networks)


class Pixels:
    """Draws grids of colors."""

    def __init__(self, networks: "Networks") -> None:
        self._networks = networks

    def generate(
        self,
        request: GenerationRequest,
        *,
        seed: int,
        pictures: Mapping[str, Image.Image],
        checkpoint: bytes | None = None,
        frugal: bool = False,
    ) -> Iterator[Step]:
        """See `ImageGenerator`."""
        import torch

        from models.guided import draw, start_picture

        options = Options.model_validate(request.options)
        device = self._networks.device
        rng = torch.Generator().manual_seed(seed)
        start = start_picture(request, options, pictures, device, rng)
        grid = _Grid(
            (options.rows, options.columns),
            (request.height, request.width),
            start,
            rng,
            device,
        )
        return draw(
            grid,
            request,
            options,
            seed=seed,
            networks=self._networks,
            pictures=pictures,
            checkpoint=checkpoint,
            frugal=frugal,
        )


class _Grid:
    """A drawer of colors (1, 3, rows, columns) in [0, 1], each a rectangle of the picture."""

    def __init__(
        self,
        cells: tuple[int, int],
        size: tuple[int, int],
        start: "Tensor | None",
        rng: "torch.Generator",
        device: "torch.device",
    ) -> None:
        import torch

        self._cells, self._size, self._share = cells, size, 1.0
        self.rates: Mapping[str, float] = {}
        self._hold(0.8 + 0.1 * torch.rand(1, 3, *cells, generator=rng).to(device))
        if start is not None:
            self.absorb(start)
        self._start = self.latents["colors"].detach().clone()

    def render(self) -> "Tensor":
        from torch.nn.functional import interpolate

        size = [round(side * self._share) for side in self._size]
        return interpolate(self.latents["colors"], size=size, mode="nearest-exact")

    def project(self) -> None:
        self.latents["colors"].clamp_(0, 1)

    def absorb(self, picture: "Tensor") -> None:
        from torch.nn.functional import interpolate

        self._hold(interpolate(picture, size=self._cells, mode="area"))

    def move(self, motion: "Motion") -> None:
        self.absorb(motion.warp(self.render().detach()))

    def scale(self, share: float) -> None:
        self._share = share

    def from_start(self) -> "Tensor":
        return (self.latents["colors"] - self._start).pow(2).mean()

    def _hold(self, colors: "Tensor") -> None:
        self.latents = {"colors": colors.detach().contiguous().requires_grad_(True)}
