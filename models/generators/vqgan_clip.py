"""VQGAN+CLIP: a VQGAN's latents, moved until CLIP finds the prompts in the picture they decode to."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from PIL import Image
from pydantic import Field

from models.generators import GenerationError, ImageGenerator, Profile, Step
from models.options import DrawingOptions
from models.prompts import color_of
from models.requests import GenerationRequest, InvalidRequest, Presets
from models.vqgan import read_card

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models.motion import Motion
    from models.networks import NetworkNames, Networks
    from models.vqgan.network import Vqgan


class Options(DrawingOptions, frozen=True, extra="forbid"):
    """Where the latents start, and what holds them."""

    start: Literal["random", "pixels", "gradient", "perlin", "prior"] = Field(  # type: ignore[assignment]  # one more
        "random",
        description="where the drawing starts: random: random codes; pixels: uniform noise; gradient: a "
        "random ramp in each color; perlin: soft noise of three sizes; prior: what it makes of the texts",
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


def profile(names: "NetworkNames", presets: Presets = Presets()) -> Profile:
    """The defaults of the VQGAN's card, where it has some."""
    card = read_card(names.vqgan)
    drawing = dict(card.drawing)
    sizes = {key: drawing.pop(key) for key in ("width", "height", "steps")}
    options = Options.model_validate(drawing)
    return Profile(**sizes, size_multiple=card.config.factor, options=options)


def check(request: GenerationRequest, names: "NetworkNames") -> None:
    """The VQGAN's card says whether it has a prior."""
    wants_prior = request.options["start"] == "prior" and request.options["init_image"] is None
    if wants_prior and read_card(names.vqgan).prior is None:
        raise InvalidRequest(
            "/options/start", "no_prior", f"the VQGAN {names.vqgan} has no prior; use start=random"
        )


def load(networks: "Networks") -> ImageGenerator:
    """Load the VQGAN, its prior and the CLIPs that guide."""
    networks.vqgan(), networks.prior(), networks.guides()
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

        from models.guided import draw, start_picture

        options = Options.model_validate(request.options)
        vqgan = self._networks.vqgan()
        with torch.no_grad():
            # the start and the cutouts each draw from the seed: the order of the first notebooks
            rng = torch.Generator().manual_seed(seed)
            start = start_picture(request, options, pictures, self._networks.device, rng)
            latents = vqgan.encode(start) if start is not None else self._start(request, options, rng)
            if start is None:
                start = vqgan.decode(latents).clamp(0, 1)  # what the prior gives lies between the codes
        drawer = _CodedPicture(vqgan, latents)

        def latent_loss(index: int) -> "Tensor":
            return options.commitment / 2 * (drawer.latents["z"] - drawer.quantized).pow(2).mean()

        return draw(
            drawer,
            request,
            options,
            seed=seed,
            networks=self._networks,
            pictures=pictures,
            checkpoint=checkpoint,
            frugal=frugal,
            start=start,
            latent_loss=latent_loss if options.commitment else None,
        )

    def _start(self, request: GenerationRequest, options: Options, rng: "torch.Generator") -> "Tensor":
        """Latents to start from: (1, D, h, w)"""
        import torch

        from models.guidance import embed
        from models.prior import painted

        vqgan, prior, device = self._networks.vqgan(), self._networks.prior(), self._networks.device
        grid = (request.height // vqgan.factor, request.width // vqgan.factor)
        texts = [prompt for prompt in request.prompts if prompt.text is not None and prompt.weight > 0]
        if options.start == "prior" and prior is None:
            raise GenerationError("this VQGAN has no prior to start from; use start=random")
        if options.start == "prior" and prior is not None and texts:
            guide = self._networks.guides()[0]
            embeddings = [embed(guide, prompt.text or "", options.templates) for prompt in texts]
            weights = torch.tensor([prompt.weight for prompt in texts], device=device)
            latents = prior.start(
                torch.cat(embeddings), weights, vqgan.codebook, grid, temperature=options.prior_temperature
            )
            color = color_of(texts[0].text or "") if options.paint else None
            if color is None:
                return latents
            picture = vqgan.decode(latents).clamp(0, 1)
            return vqgan.encode(painted(picture, torch.tensor(color, device=device)))
        codes = torch.randint(len(vqgan.codebook), [grid[0] * grid[1]], generator=rng)
        return vqgan.lookup(codes.view(1, *grid).to(device))


class _CodedPicture:
    """A drawer of latents (1, D, h, w): each place shows its nearest code and moves as if not rounded."""

    def __init__(self, vqgan: "Vqgan", latents: "Tensor") -> None:
        self._vqgan = vqgan
        self._low, self._high = vqgan.low, vqgan.high
        self._grid = latents.shape[2:]
        self._start = latents.clone()
        self.rates: Mapping[str, float] = {}
        self.quantized = latents  # as of the last render
        self._hold(latents)

    def render(self) -> "Tensor":
        from models.drawing import clamp_to_range, straight_through

        latents = self.latents["z"]
        self.quantized = self._vqgan.lookup(self._vqgan.nearest(latents.detach()))
        return clamp_to_range(self._vqgan.decode(straight_through(self.quantized, latents)))

    def project(self) -> None:
        latents = self.latents["z"]
        latents.copy_(latents.maximum(self._low).minimum(self._high))

    def absorb(self, picture: "Tensor") -> None:
        self._hold(self._vqgan.encode(picture))

    def move(self, motion: "Motion") -> None:
        self.absorb(motion.warp(self.render()))

    def scale(self, share: float) -> None:
        from torch.nn.functional import interpolate

        grid = [max(1, round(side * share)) for side in self._grid]
        self._hold(interpolate(self.latents["z"].detach(), size=grid, mode="bilinear"))

    def from_start(self) -> "Tensor":
        from torch.nn.functional import interpolate

        latents = self.latents["z"]
        if latents.shape != self._start.shape:  # drawn at another scale for now
            latents = interpolate(latents, size=self._grid, mode="bilinear")
        return (latents - self._start).pow(2).mean()

    def _hold(self, latents: "Tensor") -> None:
        self.latents = {"z": latents.detach().clone().contiguous().requires_grad_(True)}
