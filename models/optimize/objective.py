"""The objective of a drawing that CLIP guides, by the options of its request."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.cutouts.cutouts import Cutouts, cutouts_of
from models.networks.shared_networks import Networks
from models.optimize.clip_loss import ClipLoss, guides_of, held_out_of, scores
from models.optimize.drawer import Drawer, DrawerInit
from models.optimize.image_losses import ImageLosses, colors_of, in_palette, white_mask
from models.optimize.init_image import random_image
from models.optimize.loop import optimize
from models.optimize.mask import mask_of
from models.optimize.motion import Motion
from models.optimize.prompt_targets import to_tensor
from models.optimize.style_loss import style_of
from models.requests.generator import Drawing, Generate, Step
from models.requests.options import DrawingOptions
from models.runtime.batched_steps import Compute

OptionsT = TypeVar("OptionsT", bound=DrawingOptions)

_UNTIL_PALETTE = 0.75
"""Share of the steps after which CLIP sees the image in the palette's colors only."""


def draw(
    drawer: Drawer,
    drawing: Drawing,
    options: DrawingOptions,
    networks: Networks,
    start: Tensor | None = None,
) -> Iterator[Step]:
    """Optimize a drawer towards the prompts and options of a request.

    Args:
        start: the image that the drawing starts from, (1, 3, H, W) in [0, 1]; None: what the drawer renders.

    Raises:
        GenerationError, CheckpointUnusable: as `models.requests.generator.Generate`.
    """
    objective = GuidedObjective(drawer, drawing, options, networks, start)
    return optimize(drawer, objective, drawing, options, networks.scheduler)


def load_guided(
    networks: Networks, options: type[OptionsT], make: Callable[[OptionsT, DrawerInit], Drawer]
) -> Generate:
    """A generator that needs no network but the CLIPs that guide, which are loaded.

    Args:
        options: the generator's own.
        make: makes its drawer.
    """
    networks.guides()

    def generate(drawing: Drawing) -> Iterator[Step]:
        typed = options.model_validate(drawing.request.options)
        rng, device = torch.Generator().manual_seed(drawing.seed), networks.device
        start = init_image(drawing, typed, device, rng)
        return draw(make(typed, DrawerInit(drawing.size, start, rng, device)), drawing, typed, networks)

    return generate


def init_image(
    drawing: Drawing, options: DrawingOptions, device: torch.device, rng: torch.Generator
) -> Tensor | None:
    """The image that a request starts from: (1, 3, H, W) in [0, 1]; None: the drawer has its own start.

    Args:
        rng: on the CPU; the source of a random image, and not used for any other.
    """
    if options.init_image is not None:
        return to_tensor(drawing.image(options.init_image), drawing.size, device)
    if options.start in ("pixels", "gradient", "perlin"):
        return random_image(options.start, drawing.size, rng).to(device)
    return None


class GuidedObjective:
    """CLIP's loss, the losses of the image itself, and what is composed over it: see `loop.Objective`."""

    def __init__(
        self,
        drawer: Drawer,
        drawing: Drawing,
        options: DrawingOptions,
        networks: Networks,
        start: Tensor | None = None,
    ) -> None:
        self._drawer, self._drawing, self._options, self._device = drawer, drawing, options, networks.device
        self._compute = networks.scheduler.compute
        self.rng = torch.Generator().manual_seed(drawing.seed)
        self._index = 1  # of the last step
        self._palette = colors_of(options.palette, self._device)
        self._mask = mask_of(drawing, options, self._device) if options.mask is not None else None
        self._style = style_of(drawing, options, networks) if options.style else None
        self._motion = Motion.of(options) if options.moves else None
        self._overlay = self._tensor(options.overlay_image)
        self._clip_loss = ClipLoss(
            guides_of(drawing, options, networks),
            _cutouts_of(options, self.rng, self._compute),
            networks.scheduler,
            low_memory=drawing.low_memory,
        )
        self._held_out = held_out_of(drawing, networks)
        self._image_losses = ImageLosses.of(options)
        self._edge_color = colors_of([options.edge_color], self._device)
        self._paper = torch.empty(0, device=self._device)
        if self._image_losses is not None and self._image_losses.background:
            with torch.no_grad():
                self._paper = white_mask(drawer.render() if start is None else start)

    def __call__(self, image: Tensor, index: int) -> Tensor:
        options, drawer, self._index = self._options, self._drawer, index
        # in the palette's colors little by little: all at once leaves no gradient to follow
        image = self._composed(image, min(1.0, index / (_UNTIL_PALETTE * self._drawing.request.steps)))
        loss = self._clip_loss(image, index)
        if self._image_losses is not None:
            loss = loss + self._compute(
                self._image_losses, image, self._palette, self._edge_color, self._paper
            )
        if self._style is not None:
            loss = loss + options.style * self._style(image)
        if options.init_weight and not options.moves:
            loss = loss + options.init_weight / 2 * drawer.from_start()
        if (latent_loss := drawer.latent_loss(index)) is not None:
            loss = loss + latent_loss
        return loss

    def before_step(self, index: int) -> bool:
        options, drawer, done = self._options, self._drawer, index - 1
        moves = self._motion is not None and done > 0 and done % options.move_every == 0
        is_early = 0 < done <= options.overlay_until * self._drawing.request.steps
        overlays = self._overlay is not None and is_early and done % options.overlay_every == 0
        with torch.no_grad():
            if moves and self._motion is not None:
                drawer.move(self._motion)
            if overlays and self._overlay is not None:
                rendered = self._full(drawer.render())
                drawer.init_from(torch.lerp(rendered, self._overlay, options.overlay_opacity))
        return moves or overlays or drawer.restarts(index)

    def show(self, image: Tensor) -> Tensor:
        return self._composed(image, 1)

    def score(self, image: Tensor) -> float:
        return float(self._clip_loss.score(image, self._index))

    def held_out_score(self, image: Tensor) -> float | None:
        return None if self._held_out is None else float(scores(image, [self._held_out], self._index))

    def _composed(self, image: Tensor, palette_share: float) -> Tensor:
        image = self._full(image)
        if self._options.palette_only:
            image = torch.lerp(image, in_palette(image, self._palette), palette_share)
        return image if self._mask is None else self._mask(image)

    def _full(self, image: Tensor) -> Tensor:
        """A rendered image, resized to the drawing's size."""
        if image.shape[2:] == self._drawing.size:
            return image
        return F.interpolate(image, size=self._drawing.size, mode="bilinear")

    def _tensor(self, name: str | None) -> Tensor | None:
        if name is None:
            return None
        return to_tensor(self._drawing.image(name), self._drawing.size, self._device)


def _cutouts_of(options: DrawingOptions, rng: torch.Generator, compute: Compute) -> Cutouts:
    """The views that CLIP sees. Of a tile, the image and the image prompts are rolled first to show seams."""
    cutouts = cutouts_of(options, rng, compute)
    if not options.tile:
        return cutouts
    return lambda images, size, done: cutouts(_rolled(images, rng), size, done)


def _rolled(image: Tensor, rng: torch.Generator) -> Tensor:
    """Shifted by a random offset, wrapped around at the edges: (N, C, H, W)"""
    shifts = [int(torch.randint(side, (), generator=rng)) for side in image.shape[2:]]
    return image.roll(shifts, (2, 3))
