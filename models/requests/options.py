"""The options that all drawers share; a generator's own `Options` adds to them and sets its defaults."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from models.requests.request import PictureName

Color = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$", examples=["#d02030"])]
CutoutMethod = Literal["original", "updated", "pooling", "pixray", "views"]

Weight = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class GuideOptions(BaseModel, frozen=True, extra="forbid"):
    """The texts that CLIP compares an image with, and the weights of the CLIPs."""

    templates: tuple[Annotated[str, Field(max_length=200)], ...] = Field(
        ("{prompt}",),
        min_length=1,
        max_length=32,
        description="texts with {prompt} in place of the prompt; their embeddings are averaged",
    )
    guide_weights: dict[str, Annotated[float, Field(ge=0, le=10)]] = Field(
        {}, description="weight of each guiding CLIP, by its name; 1 by default; 0: not used"
    )


class SamplingOptions(GuideOptions, frozen=True, extra="forbid"):
    """How images are sampled code by code, and which one is selected."""

    candidates: int = Field(
        16,
        ge=1,
        le=64,
        description="images sampled at once; CLIP selects the one nearest to the prompts",
    )
    temperature: float = Field(
        1,
        gt=0,
        le=10,
        description="of the codes' probabilities; below 1, the likely ones are chosen more often",
    )
    top_k: int = Field(0, ge=0, le=65_536, description="codes that can be chosen, the likeliest; 0: all")
    top_p: float = Field(
        0.95, gt=0, le=1, description="choose among the likeliest codes that together have this probability"
    )


class CompletingOptions(SamplingOptions, frozen=True, extra="forbid"):
    """Which part of a given image is kept; the VQGAN needs an encoder."""

    init_image: PictureName | None = Field(
        None, description="an image whose upper part is kept and continued"
    )
    keep: float = Field(0.5, ge=0, lt=1, description="share of the rows of init_image that is kept")


class DrawingOptions(GuideOptions, frozen=True, extra="forbid"):
    """What guides a drawing, how it starts, what it keeps, how it moves and how fast it learns."""

    # what CLIP sees
    cutouts: int = Field(16, ge=1, le=256, description="views that each CLIP sees at each step")
    cutouts_end: float = Field(
        1,
        gt=0,
        le=1,
        description="share of the cutouts in the last step; they become fewer in the second half, for speed",
    )
    cutout_method: CutoutMethod = Field(
        "views",
        description="original: plain squares; updated: squares, then flips, warps and color jitter; pooling: "
        "the whole, pooled, then the same; pixray: near and wide views; views: turned squares, and views of "
        "the whole from further away",
    )
    cut_power: float = Field(1, gt=0, le=10, description="of original and updated: above 1, more are small")
    whole: float = Field(0.75, ge=0, le=1, description="of views: share that shows the whole image")

    # other losses
    contrast: Weight = Field(
        0, description="weight of telling the prompts from other colors and other things"
    )
    smoothness: Weight = Field(0, description="weight of the differences between neighbors (total variation)")
    saturation: float = Field(
        0, ge=-100, le=100, allow_inf_nan=False, description="weight of vivid colors; below 0: of pale ones"
    )
    symmetry: Weight = Field(0, description="weight of being the same when mirrored left to right")
    palette: tuple[Color, ...] = Field((), max_length=64, description="colors as #rrggbb")
    palette_weight: Weight = Field(0, description="weight of being near to the palette's colors")
    palette_only: bool = Field(
        False,
        description="show each place in the palette's nearest color; CLIP sees ever more of that, and from "
        "three quarters of the steps on nothing else",
    )
    edge: Weight = Field(
        0, description="weight of `edge_color` along the margins, each a sixteenth of the shorter side"
    )
    edge_color: Color = Field("#ffffff", description="color of the margins")
    style: Weight = Field(0, description="weight of looking as if made like `style_image`")
    style_image: PictureName | None = Field(
        None, description="an image whose colors and textures to take; it is cut to the drawing's shape"
    )
    background: Weight = Field(
        0, description="how strongly the image is held to white where its start is white, unless it moves"
    )
    tile: bool = Field(False, description="make the image's edges meet, so that it tiles without seams")

    # the start, and what is kept
    start: Literal["random", "pixels", "gradient", "perlin"] = Field(
        "random",
        description="where the drawing starts: random: the generator's own random latents; pixels: uniform "
        "noise; gradient: a random ramp in each color; perlin: soft noise of three sizes",
    )
    init_image: PictureName | None = Field(
        None, description="an image to start from in place of `start`; it is stretched to the drawing's size"
    )
    init_weight: float = Field(
        0,
        ge=0,
        le=1e4,
        allow_inf_nan=False,
        description="how strongly the drawing is held to its start, unless it moves",
    )
    mask: PictureName | None = Field(
        None,
        description="what to draw anew of `init_image`: white is drawn, black keeps its pixels exactly, "
        "gray counts as the nearer of them; it is stretched to the drawing's size",
    )
    mask_feather: int = Field(
        0, ge=0, le=256, description="pixels inside the mask's border over which old and new mix"
    )
    overlay_image: PictureName | None = Field(
        None, description="an image laid over the drawing at times; it is stretched to its size"
    )
    overlay_every: int = Field(10, ge=1, le=10_000, description="steps from one overlay to the next")
    overlay_opacity: float = Field(0.3, gt=0, le=1, description="of the overlay")
    overlay_until: float = Field(0.5, ge=0, le=1, description="share of the steps with overlays")

    # how it moves
    zoom: float = Field(1, ge=0.5, le=2, description="magnification at each move; 1 does not zoom")
    pan_x: float = Field(0, ge=-0.5, le=0.5, description="shift to the right at each move, in widths")
    pan_y: float = Field(0, ge=-0.5, le=0.5, description="shift downwards at each move, in heights")
    rotate: float = Field(0, ge=-180, le=180, description="degrees of each move's turn to the right")
    move_every: int = Field(1, ge=1, le=1000, description="steps from one move to the next")

    # how fast it learns
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="sgd has momentum")
    learning_rate: float = Field(0.1, gt=0, le=100, description="of the optimizer")
    learning_rate_hold: float = Field(1, ge=0, le=1, description="share of the steps at the full rate")
    learning_rate_end: float = Field(
        1, ge=0, le=1, description="rate of the last step, as a share of the first's; it falls in a line"
    )
    learning_rate_drops: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (),
        max_length=8,
        description="shares of the steps at which the rate falls to a tenth, and starts anew",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="memory of gradients: Adam's beta1, SGD's momentum")
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam's memory of squared gradients")
    weight_decay: float = Field(0, ge=0, le=10, description="of adamw: pull of the latents to zero")
    coarse: float = Field(
        0, ge=0, lt=1, description="share of the steps drawn at half the size first, for speed"
    )
    stop_after: int = Field(
        0, ge=0, le=10_000, description="end after so many steps without a lower loss; 0: draw all steps"
    )

    @model_validator(mode="after")
    def _check_requirements(self) -> Self:
        if self.mask is not None and self.init_image is None:
            raise ValueError("a mask needs an init_image: the pixels to keep")
        if self.style > 0 and self.style_image is None:
            raise ValueError("style needs a style_image")
        if (self.palette_weight > 0 or self.palette_only) and not self.palette:
            raise ValueError("palette_weight and palette_only need a palette")
        if any("{prompt}" not in template for template in self.templates):
            raise ValueError("each template holds {prompt}")
        return self

    def cutouts_at(self, done: float) -> int:
        """How many views each CLIP sees in the step that completes this share of the steps."""
        share = 1 - (1 - self.cutouts_end) * max(0.0, 2 * done - 1)
        return max(1, round(self.cutouts * share))

    @property
    def moves(self) -> bool:
        """Whether the drawing is zoomed, shifted or rotated between steps."""
        return (self.zoom, self.pan_x, self.pan_y, self.rotate) != (1, 0, 0, 0)


class VqganClipOptions(DrawingOptions, frozen=True, extra="forbid", title="Options"):
    """Where the latents start, and the losses on them."""

    start: Literal["random", "pixels", "gradient", "perlin", "prior", "dalle"] = Field(  # type: ignore[assignment]  # one more
        "random",
        description="where the drawing starts: random: random codes; pixels: uniform noise; gradient: a "
        "random ramp in each color; perlin: soft noise of three sizes; prior: what it expects of the texts; "
        "dalle: the best of what that generator samples for them",
    )
    candidates: int = Field(
        16, ge=1, le=64, description="of start=dalle: images sampled, of which one is taken"
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
        0, description="weight of the latents' mean square, in the first steps: it draws calmer images"
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
