"""Guided drawing, from a request's options: what all drawers share around the loop.

A generator makes a drawer; `draw` puts it into a scene of prompts, losses and pictures, and lets it descend.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from PIL import Image
from torch import Tensor

from models.cutouts import cutouts_of
from models.drawing import Descent, Drawer, descend
from models.generators import Step
from models.guidance import ClipGuidance, find_picture, targets_of, to_tensor
from models.losses import held_white, smoothness, white_mask
from models.motion import Motion
from models.networks import Networks
from models.options import DrawingOptions
from models.requests import GenerationRequest
from models.schedules import Schedule
from models.starts import random_picture


def draw(
    drawer: Drawer,
    request: GenerationRequest,
    options: DrawingOptions,
    *,
    seed: int,
    networks: Networks,
    pictures: Mapping[str, Image.Image],
    checkpoint: bytes | None = None,
    frugal: bool = False,
    start: Tensor | None = None,
    latent_loss: Callable[[int], Tensor] | None = None,
    restarts: Callable[[int], bool] | None = None,
) -> Iterator[Step]:
    """Draw what a request asks for.

    Args:
        options: the request's own, as the generator's `Options`.
        start: what the drawing starts from, (1, 3, H, W) in [0, 1]; none: what the drawer renders.
        latent_loss: of step `index`, of 1 … steps: what the generator itself asks of its latents.
        restarts: whether the generator wants a new optimizer at step `index`.

    Raises:
        GenerationError, CheckpointUnusable: as `ImageGenerator.generate` and `descend`.
    """
    rng = torch.Generator().manual_seed(seed)
    scene = GuidedScene(
        drawer,
        request,
        options,
        networks,
        pictures,
        rng,
        frugal=frugal,
        start=start,
        latent_loss=latent_loss,
        restarts=restarts,
    )
    descent = Descent(request, seed, rng, Schedule(options, request.steps))
    return descend(drawer, scene, descent, checkpoint=checkpoint)


def start_picture(
    request: GenerationRequest,
    options: DrawingOptions,
    pictures: Mapping[str, Image.Image],
    device: torch.device,
    rng: torch.Generator,
) -> Tensor | None:
    """The picture that a request starts from: (1, 3, H, W) in [0, 1]; none: the drawer has its own start.

    Args:
        rng: on the CPU; what is left to chance is drawn from it, and nothing where there is a picture.
    """
    size = (request.height, request.width)
    if options.init_image is not None:
        return to_tensor(find_picture(pictures, options.init_image), size, device)
    if options.start in ("pixels", "gradient", "perlin"):
        return random_picture(options.start, size, rng).to(device)
    return None


class GuidedScene:
    """See `models.drawing.Scene`."""

    def __init__(
        self,
        drawer: Drawer,
        request: GenerationRequest,
        options: DrawingOptions,
        networks: Networks,
        pictures: Mapping[str, Image.Image],
        rng: torch.Generator,
        *,
        frugal: bool,
        start: Tensor | None,
        latent_loss: Callable[[int], Tensor] | None,
        restarts: Callable[[int], bool] | None,
    ) -> None:
        self._drawer, self._options, self._steps = drawer, options, request.steps
        self._latent_loss, self._restarts = latent_loss, restarts
        self._motion = Motion.of(options) if options.moves else None
        size, device = (request.height, request.width), networks.device
        guides = networks.guides()
        targets = [
            targets_of(
                guide,
                request.prompts,
                pictures,
                templates=options.templates,
                contrasted=options.contrast > 0,
                size=size,
                device=device,
            )
            for guide in guides
        ]
        self._guidance = ClipGuidance(
            guides, targets, cutouts_of(options, rng), contrast=options.contrast, frugal=frugal
        )
        with torch.no_grad():
            first = drawer.render() if start is None else start
            self._paper = white_mask(first) if options.background else None

    def loss(self, image: Tensor, index: int) -> Tensor:
        options = self._options
        image = self.show(image)
        loss = self._guidance(image)
        if options.smoothness:
            loss = loss + options.smoothness * smoothness(image)
        if self._paper is not None:
            loss = loss + options.background * held_white(image, self._paper)
        if options.init_weight:
            loss = loss + options.init_weight / 2 * self._drawer.from_start()
        if self._latent_loss is not None:
            loss = loss + self._latent_loss(index)
        return loss

    def show(self, image: Tensor) -> Tensor:
        return image

    def disturb(self, index: int) -> bool:
        moved = self._motion is not None and index > 1 and (index - 1) % self._options.move_every == 0
        if moved and self._motion is not None:
            with torch.no_grad():
                self._drawer.move(self._motion)
        return moved or (self._restarts is not None and self._restarts(index))

    def score(self, image: Tensor) -> Tensor:
        return self._guidance.score(image)

    def held_out_score(self, image: Tensor) -> Tensor | None:
        return None
