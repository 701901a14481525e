"""What generators share whose drawers need no network of their own: the way from a request to a drawing."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor

from models.networks.shared_networks import Networks
from models.optimize.loop import Drawer
from models.optimize.scene import draw, start_picture
from models.requests.generator import Step
from models.requests.options import DrawingOptions
from models.requests.request import GenerationRequest

OptionsT = TypeVar("OptionsT", bound=DrawingOptions)


@dataclass(frozen=True)
class Sheet:
    """What a drawer begins with.

    Attributes:
        size: (H, W) of the picture.
        start: a picture to begin with, (1, 3, H, W) in [0, 1]; none: what the drawer makes of chance.
        rng: on the CPU; its state goes into no checkpoint, so that only the beginning may be drawn from it.
        device: where the latents are to be.
    """

    size: tuple[int, int]
    start: Tensor | None
    rng: torch.Generator
    device: torch.device


@dataclass(frozen=True)
class SketchGenerator(Generic[OptionsT]):
    """Draws with the drawer that `make` makes: see `models.requests.generator.ImageGenerator`."""

    networks: Networks
    options: type[OptionsT]
    make: Callable[[OptionsT, Sheet], Drawer]

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
        options = self.options.model_validate(request.options)
        rng, device = torch.Generator().manual_seed(seed), self.networks.device
        start = start_picture(request, options, pictures, device, rng)
        sheet = Sheet((request.height, request.width), start, rng, device)
        return draw(
            self.make(options, sheet),
            request,
            options,
            seed=seed,
            networks=self.networks,
            pictures=pictures,
            checkpoint=checkpoint,
            frugal=frugal,
        )
