"""What the generators share that CLIP guides and that need no network of their own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from models.networks.shared_networks import Networks
from models.optimize.drawer import Drawer
from models.optimize.objective import draw, init_image
from models.requests.generator import Drawing, Generate, Step
from models.requests.options import DrawingOptions

OptionsT = TypeVar("OptionsT", bound=DrawingOptions)


@dataclass(frozen=True)
class DrawerInit:
    """What a drawer starts with.

    Attributes:
        size: (H, W) of the image.
        start: the image to start from, (1, 3, H, W) in [0, 1]; None: the drawer has its own start.
        rng: on the CPU; for the start only, since checkpoints do not keep its state.
        device: of the latents.
    """

    size: tuple[int, int]
    start: Tensor | None
    rng: torch.Generator
    device: torch.device


def load(
    networks: Networks, options: type[OptionsT], make: Callable[[OptionsT, DrawerInit], Drawer]
) -> Generate:
    """Load the CLIPs that guide.

    Args:
        options: the generator's own.
        make: makes its drawer.
    """
    networks.guides()
    return partial(_generate, networks, options, make)


def _generate(
    networks: Networks,
    options_type: type[OptionsT],
    make: Callable[[OptionsT, DrawerInit], Drawer],
    drawing: Drawing,
) -> Iterator[Step]:
    options = options_type.model_validate(drawing.request.options)
    rng, device = torch.Generator().manual_seed(drawing.seed), networks.device
    start = init_image(drawing, options, device, rng)
    return draw(make(options, DrawerInit(drawing.size, start, rng, device)), drawing, options, networks)
