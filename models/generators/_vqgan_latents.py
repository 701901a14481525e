"""VQGAN latents that CLIP guides: their start, and the drawer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from models.generators import dalle
from models.networks.prior import painted
from models.networks.shared_networks import Networks
from models.networks.vqgan import read_card
from models.networks.vqgan.vqgan_model import EncoderMissing, Vqgan
from models.optimize.clip_loss import spherical_distance
from models.optimize.drawer import Drawer
from models.optimize.image_losses import squared_distance
from models.optimize.motion import Motion
from models.optimize.objective import draw, init_image
from models.optimize.prompt_targets import embed
from models.requests.generator import Drawing, GenerationError, Step
from models.requests.options import VqganClipOptions
from models.requests.prompts import color_of
from models.runtime.autograd import clamp_to_range, straight_through
from models.runtime.batched_steps import StepScheduler
from models.sampling.candidates import Candidates, condition_on_text

_NO_ENCODER = (
    "this VQGAN's weights have no encoder, so it cannot start from an image: use start=random, and neither "
    "init_image, overlay_image nor motion"
)


def generate(networks: Networks, drawing: Drawing) -> Iterator[Step]:
    """Optimize the latents: see `models.requests.generator.Generate`."""
    options = VqganClipOptions.model_validate(drawing.request.options)
    vqgan = networks.vqgan()
    with torch.no_grad():
        # the start and the cutouts use the same seed, as in the first notebooks
        rng = torch.Generator().manual_seed(drawing.seed)
        start = init_image(drawing, options, networks.device, rng)
        if start is not None:
            latents = _encode(vqgan, start)
        else:
            latents = _start(networks, drawing, options, rng)
            start = vqgan.decode(latents).clamp(0, 1)  # the prior's latents lie between the codes
    if vqgan.encoder is None and (options.moves or options.overlay_image is not None):
        raise GenerationError(_NO_ENCODER)
    drawer = VqganLatents(vqgan, latents, options, networks.scheduler, low_memory=drawing.low_memory)
    if options.init_method != "square":  # the drawer's own loss holds it to the start
        options = options.model_copy(update={"init_weight": 0.0})
    return draw(drawer, drawing, options, networks, start)


def _start(networks: Networks, drawing: Drawing, options: VqganClipOptions, rng: torch.Generator) -> Tensor:
    """Latents to start from, without an image: (1, D, h, w)"""
    vqgan, prompts = networks.vqgan(), drawing.request.prompts
    grid = (drawing.size[0] // vqgan.factor, drawing.size[1] // vqgan.factor)
    # those that pull in the first step
    texts = [(p.text, p.weight_at(0)) for p in prompts if p.text is not None and p.weight_at(0) > 0]
    if options.start == "dalle" and texts:
        return _scaled(_sampled(networks, drawing, options), grid)
    if options.start == "prior" and networks.prior() is None:
        raise GenerationError("this VQGAN has no prior to start from; use start=random")
    if options.start == "prior" and texts:
        return _from_prior(networks, options, texts, grid)
    codes = torch.randint(len(vqgan.codebook), [grid[0] * grid[1]], generator=rng)
    return vqgan.lookup(codes.view(1, *grid).to(networks.device))


def _from_prior(
    networks: Networks, options: VqganClipOptions, texts: Sequence[tuple[str, float]], grid: tuple[int, int]
) -> Tensor:
    """The latents that the prior expects of weighted texts: (1, D, h, w)"""
    vqgan, prior, [guide, *_], device = (
        networks.vqgan(),
        networks.prior(),
        networks.guides(),
        networks.device,
    )
    assert prior is not None
    embeddings = torch.cat([embed(guide, text, options.templates) for text, _ in texts])
    weights = torch.tensor([weight for _, weight in texts], device=device)
    latents = prior.start(embeddings, weights, vqgan.codebook, grid, temperature=options.prior_temperature)
    color = color_of(texts[0][0]) if options.paint else None
    if color is None:
        return latents
    image = vqgan.decode(latents).clamp(0, 1)
    return _encode(vqgan, painted(image, torch.tensor(color, device=device)))


def _sampled(networks: Networks, drawing: Drawing, options: VqganClipOptions) -> Tensor:
    """Latents of the best candidate that the generator dalle samples, at its own size: (1, D, h, w)"""
    vqgan, config = networks.vqgan(), read_card(networks.names.vqgan, networks.names.weights).config
    side = config.ddconfig.resolution
    steps = (side // config.factor) ** 2
    request = drawing.request.model_copy(update={"width": side, "height": side, "steps": steps})
    sampling = dalle.Options(**options.model_dump(include={"candidates", "templates", "guide_weights"}))
    conditioning = condition_on_text(request, sampling.guidance, networks)
    candidates = Candidates(conditioning, vqgan, replace(drawing, request=request), sampling, networks)
    return vqgan.lookup(candidates.finish())


class VqganLatents(Drawer):
    """Latents (1, D, h, w), as a drawer: each place renders its nearest code; gradients pass unrounded."""

    def __init__(
        self,
        vqgan: Vqgan,
        latents: Tensor,
        options: VqganClipOptions,
        scheduler: StepScheduler,
        *,
        low_memory: bool = False,
    ) -> None:
        self._vqgan, self._options, self._scheduler, self._low_memory = vqgan, options, scheduler, low_memory
        self._low, self._high = vqgan.low, vqgan.high
        self._whole = self._grid = latents.shape[2:]  # at the full size, and at the current resolution
        self._start = latents.clone()
        self.quantized = latents  # as of the last render
        self.hold(z=latents)

    def render(self) -> Tensor:

        latents = self.latents["z"]
        self.quantized = self._scheduler.compute(self._vqgan.quantized, latents.detach())
        vqgan, tile, low_memory = self._vqgan, self._options.tile, self._low_memory

        def decode(quantized: Tensor) -> Tensor:
            return clamp_to_range(vqgan.decode(quantized, seamless=tile, low_memory=low_memory))

        return self._scheduler.forward(
            ("decode", tile, low_memory), decode, straight_through(self.quantized, latents)
        )

    def project(self) -> None:
        if self._options.clamp:
            latents = self.latents["z"]
            latents.copy_(latents.maximum(self._low).minimum(self._high))

    def init_from(self, image: Tensor) -> None:
        size = [side * self._vqgan.factor for side in self._grid]
        self.hold(z=_encode(self._vqgan, _scaled(image, size)))

    def move(self, motion: Motion) -> None:
        latents, image = self.latents["z"].detach(), self.render()
        # carry along what encoding loses of the latents: many moves would wash the image out otherwise
        lost = latents - _encode(self._vqgan, image)
        self.hold(z=_encode(self._vqgan, motion.warp(image)) + motion.carry(lost))

    def set_resolution(self, share: float) -> None:

        self._grid = torch.Size(max(1, round(side * share)) for side in self._whole)
        self.hold(z=_scaled(self.latents["z"].detach(), self._grid))

    def from_start(self) -> Tensor:

        return self._scheduler.compute(squared_distance, self.latents["z"], self._start_now())

    def latent_loss(self, index: int) -> Tensor:
        """The loss of the latents themselves in step `index`: a scalar."""

        options, latents = self._options, self.latents["z"]
        loss = latents.new_zeros(())
        if options.commitment:
            distance = self._scheduler.compute(squared_distance, latents, self.quantized)
            loss = loss + options.commitment / 2 * distance
        if decay := options.latent_decay_at(index):
            loss = loss + decay / 2 * latents.pow(2).mean()
        if options.init_weight and options.init_method == "gray":
            loss = loss + options.init_weight / (2 * (2 * index - 1)) * latents.pow(2).mean()
        if options.init_weight and options.init_method == "angle" and not options.moves:
            ends = (normalize(there.flatten(), dim=0) for there in (latents, self._start_now()))
            loss = loss + options.init_weight * spherical_distance(*ends)
        return loss

    def restarts(self, index: int) -> bool:
        """Whether the optimizer starts anew at step `index`: the latents' decay falls."""
        return self._options.latent_decay_falls(index)

    def _start_now(self) -> Tensor:
        return _scaled(self._start, self._grid)


def _encode(vqgan: Vqgan, image: Tensor) -> Tensor:

    try:
        return vqgan.encode(image)
    except EncoderMissing as error:
        raise GenerationError(_NO_ENCODER) from error


def _scaled(images: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, H, W) -> (N, C, *size)"""
    if images.shape[2:] == tuple(size):
        return images
    return interpolate(images, size=list(size), mode="bilinear", antialias=size[0] < images.shape[2])
