"""Guided drawing, from a request's options: what all drawers share around the loop.

A generator makes a drawer; `draw` puts it into a scene of prompts, losses and pictures, and lets it descend.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from models.cutouts.cutouts import Cutouts, cutouts_of
from models.networks.shared_networks import Networks
from models.optimize.clip_loss import ClipGuidance, guides_of, judge_of, score
from models.optimize.image_losses import Looks, white_mask
from models.optimize.init_image import random_picture
from models.optimize.loop import Descent, Drawer, descend
from models.optimize.mask import mask_of
from models.optimize.motion import Motion
from models.optimize.palette import colors_of, in_palette, rolled
from models.optimize.prompt_targets import find_picture, to_tensor
from models.optimize.schedule import Schedule
from models.optimize.style_loss import style_of
from models.requests.generator import Step
from models.requests.options import DrawingOptions
from models.requests.request import GenerationRequest
from models.runtime.batched_steps import Compute

_UNTIL_PALETTE = 0.75
"""Share of the steps after which a drawing is seen in its palette's colors alone."""


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
    descent = Descent(request, seed, rng, Schedule(options, request.steps), networks.company)
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
    """See `models.optimize.loop.Scene`."""

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
        self._drawer, self._options, self._steps, self._rng = drawer, options, request.steps, rng
        self._latent_loss, self._restarts = latent_loss, restarts
        self._size = size = (request.height, request.width)
        device = networks.device
        self._compute = networks.company.compute
        self._palette = colors_of(options.palette, device)
        self._mask = mask_of(options, pictures, size, device)
        self._styles = style_of(options, pictures, size, networks)
        self._motion = Motion.of(options) if options.moves else None
        self._overlay = None
        if options.overlay_image is not None:
            self._overlay = to_tensor(find_picture(pictures, options.overlay_image), size, device)
        self._guidance = ClipGuidance(
            guides_of(request, options, networks, pictures),
            _cutouts_of(options, rng, networks.company.compute),
            networks.company,
            frugal=frugal,
        )
        self._judge = judge_of(request, networks, pictures)
        self._index = 1  # the step that was drawn last
        self._looks, self._edge_color = Looks.of(options), colors_of([options.edge_color], device)
        self._paper = torch.empty(0, device=device)
        if self._looks is not None and self._looks.background:
            with torch.no_grad():
                self._paper = white_mask(drawer.render() if start is None else start)

    def loss(self, image: Tensor, index: int) -> Tensor:
        options, self._index = self._options, index
        image = self._composed(image, self._looked_up(index))
        loss = self._guidance(image, index)
        if self._looks is not None:
            asked = self._compute(self._looks, image, self._palette, self._edge_color, self._paper)
            loss = loss + asked
        for weight, style in self._styles:
            loss = loss + weight * style(image)
        if options.init_weight and not options.moves:
            loss = loss + options.init_weight / 2 * self._drawer.from_start()
        if self._latent_loss is not None:
            loss = loss + self._latent_loss(index)
        return loss

    def show(self, image: Tensor) -> Tensor:
        return self._composed(image, 1)

    def disturb(self, index: int) -> bool:
        options, done = self._options, index - 1
        moved = self._motion is not None and done > 0 and done % options.move_every == 0
        is_early = 0 < done <= options.overlay_until * self._steps
        overlaid = self._overlay is not None and is_early and done % options.overlay_every == 0
        with torch.no_grad():
            if moved and self._motion is not None:
                self._drawer.move(self._motion)
            if overlaid and self._overlay is not None:
                drawn = self._full(self._drawer.render())
                self._drawer.absorb(torch.lerp(drawn, self._overlay, options.overlay_opacity))
        return moved or overlaid or (self._restarts is not None and self._restarts(index))

    def score(self, image: Tensor) -> Tensor:
        return self._guidance.score(image, self._index)

    def held_out_score(self, image: Tensor) -> Tensor | None:
        return None if self._judge is None else score(image, self._judge, self._index)

    def _looked_up(self, index: int) -> float:
        """How much of the palette is seen in step `index`; all at once leaves nothing to learn by."""
        return min(1.0, index / (_UNTIL_PALETTE * self._steps))

    def _composed(self, image: Tensor, looked_up: float) -> Tensor:
        image = self._full(image)
        if self._options.palette_only:
            image = torch.lerp(image, in_palette(image, self._palette), looked_up)
        return image if self._mask is None else self._mask(image)

    def _full(self, image: Tensor) -> Tensor:
        """What was drawn at a smaller scale, at the picture's size."""
        if image.shape[2:] == self._size:
            return image
        return F.interpolate(image, size=self._size, mode="bilinear")


def _cutouts_of(options: DrawingOptions, rng: torch.Generator, compute: Compute) -> Cutouts:
    """The views that a request asks for; of a tile, those of its seams, too, and image prompts likewise."""
    cutouts = cutouts_of(options, rng, compute)
    if not options.tile:
        return cutouts
    return lambda images, size, done: cutouts(rolled(images, rng), size, done)
