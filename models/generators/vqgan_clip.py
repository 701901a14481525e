"""VQGAN+CLIP: a VQGAN's latents, moved until CLIP finds the prompts in the picture they decode to."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from PIL import Image
from pydantic import BaseModel, Field

from models.generators import GenerationError, GenerationRequest, ImageGenerator, PictureName, Profile, Step
from models.prompts import color_of
from models.vqgan import read_card

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models.guidance import Clip, Cutouts
    from models.networks import NetworkNames, Networks
    from models.prior import Prior
    from models.vqgan.network import Vqgan


class Options(BaseModel, frozen=True, extra="forbid"):
    """How the drawing starts, what CLIP sees of it and how fast it moves."""

    start: Literal["random", "prior"] = Field(
        "random",
        description="where the drawing starts: random codes, or what the prior makes of the prompts' texts",
    )
    init_image: PictureName | None = Field(
        None, description="a picture to start from in place of `start`; it is stretched to the drawing's size"
    )
    init_weight: float = Field(
        0, ge=0, le=1e4, description="how strongly the latents are held to where they started"
    )
    prior_temperature: float = Field(
        0.7, gt=0, le=10, description="of the prior's code probabilities; higher is softer"
    )
    paint: bool = Field(
        True, description="paint what the prior makes in the color that the first text names, if it names one"
    )
    cutouts: int = Field(32, ge=1, le=256, description="views that CLIP sees at each step")
    cutout_method: Literal["crops", "views"] = Field(
        "crops",
        description="crops: plain squares; views: turned crops, and views of the whole from further away",
    )
    cut_power: float = Field(1, gt=0, le=10, description="of crops: above 1, more of them are small")
    whole: float = Field(0.7, ge=0, le=1, description="of views: share that shows the whole picture")
    learning_rate: float = Field(0.1, gt=0, le=10, description="of Adam, in units of the latents")
    learning_rate_hold: float = Field(0.75, ge=0, le=1, description="share of the steps at the full rate")
    learning_rate_end: float = Field(
        0.1, ge=0, le=1, description="rate of the last step, as a share of the first's; it falls in a line"
    )
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam's memory of squared gradients")
    smoothness: float = Field(0, ge=0, le=100, description="weight of the differences between neighbors")
    background: float = Field(
        0, ge=0, le=100, description="how strongly the picture is held to white where its start is white"
    )
    contrast: float = Field(
        0, ge=0, le=100, description="weight of telling the prompts from other colors and other things"
    )
    commitment: float = Field(0, ge=0, le=1e4, description="how strongly the latents are held to their codes")
    templates: tuple[str, ...] = Field(
        ("{prompt}",),
        min_length=1,
        max_length=32,
        description="texts that a prompt is put into; their embeddings are averaged",
    )


def profile(names: "NetworkNames") -> Profile:
    """The defaults of the VQGAN's card, where it has some."""
    card = read_card(names.vqgan)
    drawing = dict(card.drawing)
    sizes = {key: drawing.pop(key) for key in ("width", "height", "steps")}
    options = Options.model_validate(drawing)
    return Profile(**sizes, size_multiple=card.config.factor, options=options)


def load(networks: "Networks") -> ImageGenerator:
    """Load the VQGAN, its prior and the CLIPs that guide."""
    return VqganClip(networks.vqgan(), networks.prior(), networks.guides(), networks.device)


class VqganClip:
    """Draws with a VQGAN."""

    def __init__(
        self, vqgan: "Vqgan", prior: "Prior | None", guides: "Sequence[Clip]", device: "torch.device"
    ) -> None:
        self._vqgan = vqgan
        self._prior = prior
        self._guides = guides
        self._device = device

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

        from models.drawing import Descent, descend
        from models.guidance import ClipGuidance, targets_of
        from models.losses import held_white, mean_square, smoothness, white_mask

        options = Options.model_validate(request.options)
        size = (request.height, request.width)
        # first the start, then the cutouts, each from the seed: the order of the first notebooks
        start = self._start(request, options, pictures, torch.Generator().manual_seed(seed))
        rng = torch.Generator().manual_seed(seed)
        drawer = _CodedPicture(self._vqgan, start.clone())
        targets = [
            targets_of(
                guide,
                request.prompts,
                pictures,
                templates=options.templates,
                contrasted=options.contrast > 0,
                size=size,
                device=self._device,
            )
            for guide in self._guides
        ]
        cutouts = _cutouts(options, rng)
        guidance = ClipGuidance(self._guides, targets, cutouts, contrast=options.contrast, frugal=frugal)
        mask = white_mask(drawer.first_render()) if options.background else None

        def loss_of(image: "Tensor") -> "Tensor":
            loss = guidance(image)
            if options.init_weight:
                loss = loss + options.init_weight / 2 * mean_square(drawer.latents - start)
            if options.commitment:
                loss = loss + options.commitment / 2 * mean_square(drawer.latents - drawer.quantized)
            if options.smoothness:
                loss = loss + options.smoothness * smoothness(image)
            if mask is not None:
                loss = loss + options.background * held_white(image, mask)
            return loss

        descent = Descent(
            request,
            seed,
            rng,
            options.learning_rate,
            hold=options.learning_rate_hold,
            end=options.learning_rate_end,
            betas=(0.9, options.beta2),
        )
        return descend(drawer, loss_of, descent, score_of=guidance.score, checkpoint=checkpoint)

    def _start(
        self,
        request: GenerationRequest,
        options: Options,
        pictures: Mapping[str, Image.Image],
        rng: "torch.Generator",
    ) -> "Tensor":
        """Latents to start from: (1, D, h, w)"""
        import torch

        from models.guidance import embed, find_picture, to_tensor
        from models.prior import painted

        grid = (request.height // self._vqgan.factor, request.width // self._vqgan.factor)
        with torch.no_grad():
            if options.init_image is not None:
                given = find_picture(pictures, options.init_image)
                return self._vqgan.encode(to_tensor(given, (request.height, request.width), self._device))
            texts = [prompt for prompt in request.prompts if prompt.text is not None and prompt.weight > 0]
            if options.start == "prior" and self._prior is None:
                raise GenerationError("this VQGAN has no prior to start from; use start=random")
            if options.start == "prior" and self._prior is not None and texts:
                embeddings = [embed(self._guides[0], p.text or "", options.templates) for p in texts]
                weights = torch.tensor([prompt.weight for prompt in texts], device=self._device)
                latents = self._prior.start(
                    torch.cat(embeddings),
                    weights,
                    self._vqgan.codebook,
                    grid,
                    temperature=options.prior_temperature,
                )
                color = color_of(texts[0].text or "") if options.paint else None
                if color is None:
                    return latents
                picture = self._vqgan.decode(latents).clamp(0, 1)
                return self._vqgan.encode(painted(picture, torch.tensor(color, device=self._device)))
            codes = torch.randint(len(self._vqgan.codebook), [grid[0] * grid[1]], generator=rng)
            return self._vqgan.lookup(codes.view(1, *grid).to(self._device))


class _CodedPicture:
    """A drawer of latents (1, D, h, w): each place shows its nearest code and moves as if not rounded."""

    def __init__(self, vqgan: "Vqgan", latents: "Tensor") -> None:
        self.latents = latents.contiguous().requires_grad_(True)
        self.quantized = latents  # as of the last render
        self._vqgan = vqgan
        self._low, self._high = vqgan.low, vqgan.high

    def first_render(self) -> "Tensor":
        """The start, without rounding to codes, which it need not be near: (1, 3, H, W) in [0, 1]"""
        return self._vqgan.decode(self.latents.detach()).clamp(0, 1)

    def render(self) -> "Tensor":
        from models.drawing import clamp_to_range, straight_through

        self.quantized = self._vqgan.lookup(self._vqgan.nearest(self.latents.detach()))
        return clamp_to_range(self._vqgan.decode(straight_through(self.quantized, self.latents)))

    def project(self) -> None:
        self.latents.copy_(self.latents.maximum(self._low).minimum(self._high))


def _cutouts(options: Options, rng: "torch.Generator") -> "Cutouts":
    from models.cutouts import random_crops, random_views

    def crops(images: "Tensor", size: int) -> "Tensor":
        return random_crops(images, options.cutouts, size, rng, power=options.cut_power)

    def views(images: "Tensor", size: int) -> "Tensor":
        return random_views(images, options.cutouts, size, rng, whole=options.whole)

    return crops if options.cutout_method == "crops" else views
