"""Pixel art: a small grid of colors, moved until CLIP finds the prompt in it; needs no VQGAN."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from PIL import Image
from pydantic import BaseModel, Field

from models.generators import GenerationRequest, ImageGenerator, Profile, Step

if TYPE_CHECKING:
    from torch import Tensor

    from models.networks import NetworkNames, Networks


class Options(BaseModel, frozen=True, extra="forbid"):
    """How the grid is drawn."""

    columns: int = Field(32, ge=2, le=512, description="cells from left to right")
    rows: int = Field(32, ge=2, le=512, description="cells from top to bottom")
    cutouts: int = Field(8, ge=1, le=256, description="views that CLIP sees at each step")
    whole: float = Field(0.75, ge=0, le=1, description="share of views that show the whole picture")
    learning_rate: float = Field(0.05, gt=0, le=10, description="of Adam; colors reach from 0 to 1")
    smoothness: float = Field(0.3, ge=0, le=100, description="weight of the differences between neighbors")
    contrast: float = Field(
        0.1, ge=0, le=100, description="weight of telling the prompts from other colors and other things"
    )
    templates: tuple[str, ...] = Field(
        ("{prompt}", "an emoji of {prompt}", "clip art of {prompt}", "a picture of {prompt}"),
        min_length=1,
        max_length=32,
        description="texts that a prompt is put into; their embeddings are averaged",
    )


def profile(names: "NetworkNames") -> Profile:
    """Squares of 8 pixels."""
    return Profile(width=256, height=256, steps=80, size_multiple=1, options=Options())


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

        from models.cutouts import random_views
        from models.drawing import Descent, descend
        from models.guidance import ClipGuidance, targets_of
        from models.losses import smoothness

        options = Options.model_validate(request.options)
        device, guides = self._networks.device, self._networks.guides()
        rng = torch.Generator().manual_seed(seed)
        colors = 0.8 + 0.1 * torch.rand(1, 3, options.rows, options.columns, generator=rng)
        grid = _Grid(colors.to(device), (request.height, request.width))
        targets = [
            targets_of(
                guide,
                request.prompts,
                pictures,
                templates=options.templates,
                contrasted=options.contrast > 0,
                size=(request.height, request.width),
                device=device,
            )
            for guide in guides
        ]

        def views(images: "Tensor", size: int) -> "Tensor":
            return random_views(images, options.cutouts, size, rng, whole=options.whole)

        guidance = ClipGuidance(guides, targets, views, contrast=options.contrast, frugal=frugal)

        def loss_of(image: "Tensor") -> "Tensor":
            return guidance(image) + options.smoothness * smoothness(grid.latents)

        descent = Descent(request, seed, rng, options.learning_rate, hold=0.5, end=0.1, betas=(0.9, 0.99))
        return descend(grid, loss_of, descent, score_of=guidance.score, checkpoint=checkpoint)


class _Grid:
    """A drawer of colors (1, 3, rows, columns) in [0, 1], each a rectangle of the picture."""

    def __init__(self, colors: "Tensor", size: tuple[int, int]) -> None:
        self.latents = colors.requires_grad_(True)
        self._size = size

    def render(self) -> "Tensor":
        from torch.nn.functional import interpolate

        return interpolate(self.latents, size=self._size, mode="nearest-exact")

    def project(self) -> None:
        self.latents.clamp_(0, 1)
