"""Requests for drawings, as pydantic models: all that decides an image."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Required, Self, TypedDict

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

MAX_PROMPTS = 16
MAX_SEED = 2**32 - 1
MAX_SIDE = 4096

PictureName = Annotated[str, Field(json_schema_extra={"format": "image"})]
"""The name of an image among a request's inputs. Over HTTP a client sends the image itself."""

Quality = Literal["draft", "normal", "better", "best"]
Aspect = Literal["square", "portrait", "widescreen"]
Compat = Literal["crowson", "nerdyrodent", "pixray"]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has lists only


_KINDS = ("text", "image", "target", "vector", "noise")


class InvalidRequest(ValueError):
    """A request that cannot be drawn, and the field at fault.

    Attributes:
        pointer: a JSON pointer such as /options/mask.
        code: a stable name of the error, for programs.
    """

    def __init__(self, pointer: str, code: str, detail: str) -> None:
        super().__init__(detail)
        self.pointer = pointer
        self.code = code


class Prompt(BaseModel, frozen=True, extra="forbid"):
    """One thing to draw towards, of exactly one kind; a negative weight draws away from it."""

    text: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    image: PictureName | None = Field(
        None, description="an image, cut at each step as the drawing is: likeness in style and layout"
    )
    target: PictureName | None = Field(
        None, description="an image, embedded once and whole: likeness in what it shows"
    )
    vector: (
        Annotated[
            tuple[Annotated[float, Field(allow_inf_nan=False)], ...],
            BeforeValidator(_tuple),
            Field(min_length=1, max_length=4096),
        ]
        | None
    ) = Field(
        None,
        description="an embedding by the first guide, as from /v1/embeddings; its length does not matter",
    )
    noise: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = Field(
        None, description="the seed of a random direction, for variety"
    )
    weight: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] = 1.0
    stop: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] | None = Field(
        None, description="signed distance below which this prompt no longer pulls; none: always pulls"
    )
    begin: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="share of the steps after which this prompt pulls"
    )
    end: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="share of the steps up to which this prompt pulls"
    )
    fade: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="share of the steps that it takes to come in after `begin`, and to go after `end`"
    )

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if sum(getattr(self, kind) is not None for kind in _KINDS) != 1:
            raise ValueError(f"a prompt is exactly one of {', '.join(_KINDS)}")
        if self.begin >= self.end:
            raise ValueError("a prompt begins before it ends")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {
            name: value
            for name, value in fields.items()
            if name == "weight" or value != type(self).model_fields[name].default
        }

    def weight_at(self, share: float) -> float:
        """The weight after this share of the steps."""
        if self.begin == 0 and self.end == 1:
            return self.weight
        if self.fade == 0:
            return self.weight if self.begin <= share < self.end else 0.0
        rise = 1.0 if self.begin == 0 else (share - self.begin) / self.fade
        fall = 1.0 if self.end == 1 else 1 - (share - self.end) / self.fade
        return self.weight * max(0.0, min(1.0, rise, fall))


class Presets(BaseModel, frozen=True, extra="forbid"):
    """Names of sets of defaults. The request's own values override them."""

    quality: Quality = "normal"
    aspect: Aspect | None = None  # none: the generator's own size
    compat: Compat | None = None  # the defaults of a program of the field


class SaveOptions(BaseModel, frozen=True, extra="forbid"):
    """Which files a drawing keeps, and their format."""

    format: Literal["png", "jpeg", "webp"] = Field("png", description="of the images; png is exact")
    quality: int = Field(90, ge=1, le=100, description="of jpeg and webp; webp is exact at 100")
    metadata: bool = Field(
        True,
        description="write request, seed and versions into each image, and into a JSON file beside it",
    )
    thumbnail: int = Field(0, ge=0, le=1024, description="longest side of a small copy in pixels; 0: none")
    contact_sheet: bool = Field(False, description="one more image, with all of the job side by side")
    video: Literal["none", "mp4", "webp", "frames"] = Field(
        "none", description="film the drawing: as MP4, as animated WebP, or as a ZIP of PNG frames"
    )
    frame_every: int = Field(1, ge=1, le=1000, description="steps from one frame to the next")
    fps: int = Field(12, ge=1, le=60, description="frames a second of the film")


class GenerationRequest(BaseModel, frozen=True, extra="forbid"):
    """All that decides an image: equal requests give equal bytes on the same machine and versions."""

    generator: str
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=MAX_PROMPTS)]
    width: Annotated[int, Field(ge=16, le=MAX_SIDE)]  # pixels
    height: Annotated[int, Field(ge=16, le=MAX_SIDE)]
    steps: Annotated[int, Field(ge=1, le=10_000)]
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    num_images: Annotated[int, Field(ge=1, le=16)] = 1
    options: dict[str, Any] = {}  # complete: every field of the generator's own Options
    save: SaveOptions = SaveOptions()

    def seed_of(self, image: int) -> int:
        """The seed of one image of several; image 0 has the request's own.

        Seeds are 2**32 divided by the golden ratio apart: those of neighboring requests differ (Knuth, The
        Art of Computer Programming 3, 6.4).
        """
        return (self.seed + image * 0x9E3779B1) % (MAX_SEED + 1)


class RequestFields(TypedDict, total=False):
    """What a caller sets of a `GenerationRequest`. None: the generator's default."""

    generator: Required[str]
    prompts: Required[tuple[Prompt, ...]]
    presets: Presets
    width: int | None
    height: int | None
    steps: int | None
    seed: int | None
    num_images: int
    options: Mapping[str, Any] | None
    save: SaveOptions


def seed_of_word(word: str) -> int:
    """The seed of a word: its value if it is a number, else 32 bits of its SHA-256.

    Raises:
        ValueError: it is empty.
    """
    if not word.strip():
        raise ValueError("expected a number or a word, got an empty text")
    if word.isascii() and word.isdecimal():
        return int(word[:40])  # longer ones are too large all the same
    return int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[:4])
