"""VQGAN+CLIP: a VQGAN's latents, moved until CLIP finds the prompts in the picture they decode to."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from PIL import Image
from pydantic import Field

from models.networks.footprint import decoder_bytes
from models.networks.vqgan import read_card
from models.requests import presets as known
from models.requests.generator import GenerationError, ImageGenerator, Profile, Step
from models.requests.options import DrawingOptions, Weight
from models.requests.prompts import check_prompts, color_of
from models.requests.request import GenerationRequest, InvalidRequest, Presets

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models.networks.shared_networks import Networks
    from models.networks.vqgan.vqgan_model import Vqgan
    from models.optimize.motion import Motion
    from models.requests.network_names import NetworkNames
    from models.runtime.batched_steps import Company

_NO_ENCODER = (
    "this VQGAN's weights have no encoder, so that no picture can be taken up: use start=random, and neither "
    "init_image, overlay_image nor motion"
)


class Options(DrawingOptions, frozen=True, extra="forbid"):
    """Where the latents start, and what holds them."""

    start: Literal["random", "pixels", "gradient", "perlin", "prior", "dalle"] = Field(  # type: ignore[assignment]  # one more
        "random",
        description="where the drawing starts: random: random codes; pixels: uniform noise; gradient: a "
        "random ramp in each color; perlin: soft noise of three sizes; prior: what it makes of the texts; "
        "dalle: the best of what that generator samples for them",
    )
    candidates: int = Field(
        16, ge=1, le=64, description="of start=dalle: pictures sampled, of which one is taken"
    )
    prior_temperature: float = Field(
        0.7, gt=0, le=10, description="of the prior's code probabilities; higher is softer"
    )
    paint: bool = Field(
        True, description="paint what the prior makes in the color that the first text names, if it names one"
    )
    commitment: float = Field(
        0, ge=0, le=1e4, allow_inf_nan=False, description="how strongly the latents are held to their codes"
    )
    clamp: bool = Field(True, description="keep each channel of the latents in the range that its codes have")
    init_method: Literal["square", "gray", "angle"] = Field(
        "square",
        description="what init_weight does: square: mean squared distance from the start's latents; angle: "
        "angle to them; gray: pull to zero, which is gray and not the start, ever less (compat=nerdyrodent)",
    )
    latent_decay: Weight = Field(
        0, description="weight of the latents' mean square, in the first steps: it draws calmer pictures"
    )
    latent_decay_drop: Weight = Field(
        0.3, description="by how much latent_decay falls each time, and the optimizer starts anew"
    )
    latent_decay_every: int = Field(50, ge=1, le=10_000, description="steps from one such fall to the next")

    def latent_decay_at(self, index: int) -> float:
        """The weight of the latents' mean square in step `index`, of 1 …; zero before the first."""
        if index < 1:
            return 0.0
        falls = (index - 1) // self.latent_decay_every
        return max(0.0, self.latent_decay - falls * self.latent_decay_drop)

    def latent_decay_falls(self, index: int) -> bool:
        """Whether it is less in step `index` than in the one before."""
        return self.latent_decay_at(index) < self.latent_decay_at(index - 1)


def profile(names: "NetworkNames", presets: Presets = Presets()) -> Profile:
    """The defaults of the VQGAN's card, where it has some, or those of a program that the presets name."""
    card = read_card(names.vqgan, names.weights)
    drawing = dict(card.drawing)
    sizes = {key: drawing.pop(key) for key in ("width", "height", "steps")}
    sides = drawing.pop("sides", None)
    options = Options.model_validate(drawing)
    plain = Profile(
        **sizes,
        size_multiple=card.config.factor,
        options=options,
        bytes_per_pixel=decoder_bytes(card.config, names.dtype),
        frugal_bytes_per_pixel=decoder_bytes(card.config, names.dtype, frugal=True),
        weight_bytes=card.dalle.weight_bytes if card.dalle is not None else 0,
        bytes_per_candidate=card.dalle.cache_bytes if card.dalle is not None else 0,
    )
    return known.apply(plain, presets, sides=sides, programs=known.PROGRAMS)


def check(request: GenerationRequest, names: "NetworkNames") -> None:
    """The guides can read the prompts, and the VQGAN has a prior if one is asked for."""
    check_prompts(request, names)
    start, card = request.options["start"], read_card(names.vqgan, names.weights)
    if request.options["init_image"] is None and start in ("prior", "dalle") and getattr(card, start) is None:
        raise InvalidRequest(
            "/options/start", f"no_{start}", f"the VQGAN {names.vqgan} has no {start}; use start=random"
        )


def load(networks: "Networks") -> ImageGenerator:
    """Load the VQGAN, its prior and the CLIPs that guide."""
    networks.vqgan(), networks.prior(), networks.dalle(), networks.guides()
    return VqganClip(networks)


class VqganClip:
    """Draws with a VQGAN."""

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

        from models.optimize.scene import draw, start_picture

        options = Options.model_validate(request.options)
        vqgan = self._networks.vqgan()
        with torch.no_grad():
            # the start and the cutouts each draw from the seed: the order of the first notebooks
            rng = torch.Generator().manual_seed(seed)
            start = start_picture(request, options, pictures, self._networks.device, rng)
            if start is not None:
                latents = _encode(vqgan, start)
            else:
                latents = self._start(request, options, pictures, seed, rng)
            if start is None:
                start = vqgan.decode(latents).clamp(0, 1)  # what the prior gives lies between the codes
        if vqgan.encoder is None and (options.moves or options.overlay_image is not None):
            raise GenerationError(_NO_ENCODER)
        drawer = CodedPicture(vqgan, latents, options, self._networks.company, frugal=frugal)
        held_by_itself = options.init_method != "square"
        return draw(
            drawer,
            request,
            options.model_copy(update={"init_weight": 0.0}) if held_by_itself else options,
            seed=seed,
            networks=self._networks,
            pictures=pictures,
            checkpoint=checkpoint,
            frugal=frugal,
            start=start,
            latent_loss=drawer.latent_loss,
            restarts=options.latent_decay_falls,
        )

    def _start(
        self,
        request: GenerationRequest,
        options: Options,
        pictures: Mapping[str, Image.Image],
        seed: int,
        rng: "torch.Generator",
    ) -> "Tensor":
        """Latents to start from: (1, D, h, w)"""
        import torch

        from models.networks.prior import painted
        from models.optimize.prompt_targets import embed

        vqgan, prior, device = self._networks.vqgan(), self._networks.prior(), self._networks.device
        grid = (request.height // vqgan.factor, request.width // vqgan.factor)
        # what pulls in the first step
        texts = [prompt for prompt in request.prompts if prompt.text is not None and prompt.weight_at(0) > 0]
        if options.start == "dalle" and any(prompt.weight_at(0) > 0 for prompt in texts):
            return self._sampled(request, options, pictures, seed, grid)
        if options.start == "prior" and prior is None:
            raise GenerationError("this VQGAN has no prior to start from; use start=random")
        if options.start == "prior" and prior is not None and texts:
            guide = self._networks.guides()[0]
            embeddings = [embed(guide, prompt.text or "", options.templates) for prompt in texts]
            weights = torch.tensor([prompt.weight_at(0) for prompt in texts], device=device)
            latents = prior.start(
                torch.cat(embeddings), weights, vqgan.codebook, grid, temperature=options.prior_temperature
            )
            color = color_of(texts[0].text or "") if options.paint else None
            if color is None:
                return latents
            picture = vqgan.decode(latents).clamp(0, 1)
            return _encode(vqgan, painted(picture, torch.tensor(color, device=device)))
        codes = torch.randint(len(vqgan.codebook), [grid[0] * grid[1]], generator=rng)
        return vqgan.lookup(codes.view(1, *grid).to(device))

    def _sampled(
        self,
        request: GenerationRequest,
        options: Options,
        pictures: Mapping[str, Image.Image],
        seed: int,
        grid: tuple[int, int],
    ) -> "Tensor":
        """What the generator dalle draws, at this picture's size: (1, D, h, w)"""
        from models.generators import dalle
        from models.sampling.candidates import Candidates
        from models.sampling.conditioning import condition_on_text

        vqgan = self._networks.vqgan()
        small = dalle.profile(self._networks.names)
        given = options.model_dump(include={"candidates", "templates", "guide_weights"})
        sampling = dalle.Options.model_validate(small.options.model_dump() | given)
        told = condition_on_text(request, sampling.guidance, self._networks)
        asked = request.model_copy(
            update={"width": small.width, "height": small.height, "steps": small.steps}
        )
        found = Candidates(told, vqgan, asked, sampling, seed, self._networks, pictures)
        return _scaled(vqgan.lookup(found.finish()), grid)


class CodedPicture:
    """A drawer of latents (1, D, h, w): each place shows its nearest code and moves as if not rounded."""

    def __init__(
        self,
        vqgan: "Vqgan",
        latents: "Tensor",
        options: Options,
        company: "Company",
        *,
        frugal: bool = False,
    ) -> None:
        self._vqgan, self._options, self._company, self._frugal = vqgan, options, company, frugal
        self._low, self._high = vqgan.low, vqgan.high
        self._whole = self._grid = latents.shape[2:]  # of the start, and of the scale it is drawn at
        self._start = latents.clone()
        self.rates: Mapping[str, float] = {}
        self.quantized = latents  # as of the last render
        self._hold(latents)

    def render(self) -> "Tensor":
        from models.runtime.autograd import clamp_to_range, straight_through

        latents = self.latents["z"]
        self.quantized = self._company.compute(self._vqgan.quantized, latents.detach())
        vqgan, tile, frugal = self._vqgan, self._options.tile, self._frugal

        def decode(quantized: "Tensor") -> "Tensor":
            return clamp_to_range(vqgan.decode(quantized, seamless=tile, frugal=frugal))

        return self._company.answer(
            ("decode", tile, frugal), decode, straight_through(self.quantized, latents)
        )

    def project(self) -> None:
        if self._options.clamp:
            latents = self.latents["z"]
            latents.copy_(latents.maximum(self._low).minimum(self._high))

    def absorb(self, picture: "Tensor") -> None:
        size = [side * self._vqgan.factor for side in self._grid]
        self._hold(_encode(self._vqgan, _scaled(picture, size)))

    def move(self, motion: "Motion") -> None:
        latents, picture = self.latents["z"].detach(), self.render()
        # what encoding loses of the latents is carried along: many moves would wash the picture out otherwise
        lost = latents - _encode(self._vqgan, picture)
        self._hold(_encode(self._vqgan, motion.warp(picture)) + motion.carry(lost))

    def scale(self, share: float) -> None:
        import torch

        self._grid = torch.Size(max(1, round(side * share)) for side in self._whole)
        self._hold(_scaled(self.latents["z"].detach(), self._grid))

    def from_start(self) -> "Tensor":
        from models.optimize.image_losses import squared_distance

        return self._company.compute(squared_distance, self.latents["z"], self._start_now())

    def latent_loss(self, index: int) -> "Tensor":
        """What is asked of the latents themselves in step `index`: a scalar."""
        from torch.nn.functional import normalize

        from models.optimize.clip_loss import spherical_distance
        from models.optimize.image_losses import squared_distance

        options, latents = self._options, self.latents["z"]
        loss = latents.new_zeros(())
        if options.commitment:
            distance = self._company.compute(squared_distance, latents, self.quantized)
            loss = loss + options.commitment / 2 * distance
        if decay := options.latent_decay_at(index):
            loss = loss + decay / 2 * latents.pow(2).mean()
        if options.init_weight and options.init_method == "gray":
            loss = loss + options.init_weight / (2 * (2 * index - 1)) * latents.pow(2).mean()
        if options.init_weight and options.init_method == "angle" and not options.moves:
            ends = (normalize(there.flatten(), dim=0) for there in (latents, self._start_now()))
            loss = loss + options.init_weight * spherical_distance(*ends)
        return loss

    def _start_now(self) -> "Tensor":
        return _scaled(self._start, self._grid)

    def _hold(self, latents: "Tensor") -> None:
        self.latents = {"z": latents.detach().clone().contiguous().requires_grad_(True)}


def _encode(vqgan: "Vqgan", picture: "Tensor") -> "Tensor":
    from models.networks.vqgan.vqgan_model import EncoderMissing

    try:
        return vqgan.encode(picture)
    except EncoderMissing as error:
        raise GenerationError(_NO_ENCODER) from error


def _scaled(images: "Tensor", size: "Sequence[int]") -> "Tensor":
    """(N, C, H, W) -> (N, C, *size)"""
    from torch.nn.functional import interpolate

    if images.shape[2:] == tuple(size):
        return images
    return interpolate(images, size=list(size), mode="bilinear", antialias=size[0] < images.shape[2])
