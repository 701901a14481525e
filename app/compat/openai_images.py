"""OpenAI's way to ask for pictures: its requests become jobs, and what jobs drew becomes its answers."""

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, Field

from app.clip.registry import ModelNotFound
from app.http.body import InvalidBody, LimitExceeded, Parts, fields_of, validate
from app.http.errors import Answer, Fault, HttpProblem
from app.http.fields import RequestModel
from app.http.image_input import ImageData, ImageRefused, Source, decode, decode_alpha
from app.jobs.schemas import JobRequest, Seed
from app.settings import ApiSettings
from jobs.record.record import Job, Output, Status
from models.generators import find
from models.requests.presets import shape
from models.requests.request import Presets, Quality

Kind = Literal["image_generation", "image_edit"]

_QUALITIES: Mapping[str, Quality] = {
    "low": "draft",
    "medium": "normal",
    "standard": "normal",
    "auto": "normal",
    "high": "better",
    "hd": "better",
    "xhigh": "best",
    "max": "best",
}
_OPTION = re.compile(r"options\[(\w+)\]")
# places in a job's request, and the fields of OpenAI's request that say it
_FIELDS = {
    "#/prompts": "#/prompt",
    "#/width": "#/size",
    "#/height": "#/size",
    "#/num_images": "#/n",
    "#/generator": "#/model",
    "#/options/init_image": "#/image",
    "#/options/mask": "#/mask",
    "#/save/quality": "#/output_compression",
}


class DrawingFailed(HttpProblem):
    """The request cannot be drawn."""

    answer = Answer(422, "drawing_failed", "The drawing failed")


class DrawingInterrupted(HttpProblem):
    """The drawing was interrupted and may succeed later."""

    answer = Answer(503, "drawing_interrupted", "The drawing was interrupted", 5)


class DrawingCanceled(HttpProblem):
    """The job was canceled."""

    answer = Answer(409, "job_canceled", "The job was canceled")


class StillDrawing(HttpProblem):
    """The stream ended before the drawing did."""

    answer = Answer(504, "still_drawing", "The drawing takes longer")


class ImagesRequest(RequestModel):
    """Pictures to draw, in OpenAI's shape. `seed`, `steps` and `options` are those of a job."""

    prompt: Annotated[str, Field(min_length=1, max_length=1000, description="taken word for word")]
    model: (
        Annotated[
            str,
            Field(min_length=1, max_length=200, description="a name of GET /v1/generators; else vqgan_clip"),
        ]
        | None
    ) = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    size: (
        Annotated[
            str,
            Field(pattern="^(auto|[0-9]{2,4}x[0-9]{2,4})$", description="WIDTHxHEIGHT in pixels, or auto"),
        ]
        | None
    ) = None
    quality: (
        Annotated[
            Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"],
            Field(description="how much time a picture is worth"),
        ]
        | None
    ) = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: (
        Annotated[int, Field(ge=0, le=100, description="quality of jpeg and webp; 90 if not said")] | None
    ) = None
    background: Literal["auto", "opaque"] | None = None
    moderation: (
        Annotated[Literal["auto", "low"], Field(description="there is none; both are taken")] | None
    ) = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3, description="of a stream")] | None = None
    user: Annotated[str, Field(max_length=512, description="kept as the job's metadata")] | None = None
    safety_identifier: Annotated[str, Field(max_length=512, description="goes before `user`")] | None = None
    seed: Seed | None = None
    steps: Annotated[int, Field(ge=1, le=10_000)] | None = None
    options: dict[str, Any] = Field(default_factory=dict, description="of the generator, as in a job")


class EditRequest(ImagesRequest):
    """A picture to draw over, in OpenAI's shape."""

    image: ImageData
    mask: (
        Annotated[
            ImageData,
            Field(description="as large as the picture; it is drawn anew where this is fully transparent"),
        ]
        | None
    ) = None


class DrawnImage(BaseModel):
    """A picture: the one or the other, as `response_format` says."""

    b64_json: str | None = None
    url: str | None = None


class ImagesAnswer(BaseModel):
    """Pictures that were drawn, in OpenAI's shape."""

    created: int = Field(description="Unix time")
    data: list[DrawnImage]
    background: Literal["opaque"] = "opaque"
    output_format: str
    size: str
    job_id: str = Field(description="of the job that drew them")


def edit_form(parts: Parts) -> dict[str, Any]:
    """The fields of an edit out of a form's parts, as OpenAI's clients name them."""
    plain = [("image" if name == "image[]" else name, value) for name, value in parts]
    options = {match[1]: value for name, value in plain if (match := _OPTION.fullmatch(name))}
    fields = fields_of([part for part in plain if not _OPTION.fullmatch(part[0])])
    return {**fields, **({"options": options} if options else {})}


def job_of(asked: ImagesRequest, settings: ApiSettings) -> JobRequest:
    """The job that draws what is asked for. Decodes pictures, so it may take a second.

    Raises:
        app.clip.registry.ModelNotFound: no generator of that name is served.
        app.http.body.InvalidBody: some things do not go together.
        app.http.image_input.ImageRefused
    """
    generator = asked.model or JobRequest.model_fields["generator"].default
    if generator not in settings.generators:
        served = ", ".join(settings.generators)
        raise ModelNotFound(f"no model {generator!r} draws here; there are {served}")
    _check(asked)
    width, height = _size(asked.size)
    quality = _QUALITIES[asked.quality or "auto"]
    options = asked.options
    if isinstance(asked, EditRequest):
        if "mask" not in find(generator).Options.model_fields:
            raise _refused("model", f"{generator} cannot draw over a picture")
        picture = decode(Source(asked.image, "#/image"), settings.image_limits)
        options = {**options, "init_image": _text(asked.image)}
        if asked.mask is not None:
            options["mask"] = _text(_white_where_clear(Source(asked.mask, "#/mask"), picture, settings))
        if width is None:
            profile = find(generator).profile(settings.network_names, Presets(quality=quality))
            side = math.sqrt(profile.width * profile.height)
            width, height = shape(profile.size_multiple, side, picture.width / picture.height)
    save: dict[str, Any] = {"format": asked.output_format or "png"}
    if asked.output_compression is not None:
        save["quality"] = max(asked.output_compression, 1)
    who = asked.safety_identifier or asked.user
    fields = {
        "generator": generator,
        "prompts": [{"text": asked.prompt}],
        "width": width,
        "height": height,
        "steps": asked.steps,
        "seed": asked.seed,
        "num_images": asked.n or 1,
        "quality": quality,
        "options": options,
        "save": save,
        "metadata": {"user": who} if who else {},
    }
    return validate(JobRequest, fields, strict=False)


@contextmanager
def in_its_words() -> Iterator[None]:
    """Errors about a job's request say where OpenAI's request is to blame."""
    try:
        yield
    except InvalidBody as error:
        raise InvalidBody(_as_asked(fault) for fault in error.faults) from None
    except (LimitExceeded, ImageRefused) as error:
        error.faults = tuple(_as_asked(fault) for fault in error.faults)
        raise


def check_end(job: Job) -> None:
    """Nothing, if a final job drew its pictures.

    Raises:
        DrawingFailed, DrawingInterrupted, DrawingCanceled
    """
    if job.error is not None:
        kind = DrawingInterrupted if job.error.retryable else DrawingFailed
        raise kind(f"{job.error.detail} ({job.id})")
    if job.status is not Status.SUCCEEDED:
        raise DrawingCanceled(f"the job is {job.status} ({job.id})")


def pictures_of(job: Job) -> list[Output]:
    """What a job drew, without what was made of it."""
    return [output for output in job.outputs if output.kind == "image"]


def event_of(
    kind: Kind, moment: Literal["partial_image", "completed"], picture: Output, data: bytes, **more: Any
) -> dict[str, Any]:
    """A picture as an event of a stream."""
    return {
        "type": f"{kind}.{moment}",
        "b64_json": _text(data),
        "size": size_of(picture),
        "background": "opaque",
        "output_format": format_of(picture),
        **more,
    }


def size_of(picture: Output) -> str:
    """As OpenAI writes it."""
    return f"{picture.width}x{picture.height}"


def format_of(picture: Output) -> str:
    """As OpenAI names it."""
    return picture.content_type.removeprefix("image/")


def _check(asked: ImagesRequest) -> None:
    if asked.output_compression is not None and asked.output_format in (None, "png"):
        raise _refused("output_compression", "png is not compressed so; say output_format jpeg or webp")
    if asked.partial_images and not asked.stream:
        raise _refused("partial_images", "they are told in a stream only; say stream, too")
    if asked.stream and (asked.n or 1) > 1:
        raise _refused("n", "a stream is of one image: its events do not say which of several they mean")
    if asked.stream and asked.response_format == "url":
        raise _refused("response_format", "a stream brings its pictures along, as b64_json")


def _refused(field: str, detail: str) -> InvalidBody:
    return InvalidBody.at(f"#/{field}", "not_supported", detail)


def _size(text: str | None) -> tuple[int, int] | tuple[None, None]:
    if text in (None, "auto"):
        return None, None
    width, height = map(int, str(text).split("x"))
    return width, height


def _white_where_clear(mask: Source, picture: Image.Image, settings: ApiSettings) -> bytes:
    """A mask of OpenAI's, open where it is fully transparent, as one of ours, open where it is white."""
    alpha = decode_alpha(mask, settings.image_limits)
    if alpha.size != picture.size:
        sizes = f"{alpha.width}x{alpha.height}, the picture {picture.width}x{picture.height}"
        raise _refused("mask", f"the mask is {sizes}; it must be as large")
    ours = alpha.point(lambda value: 255 if value == 0 else 0)
    if ours.getbbox() is None:
        raise _refused("mask", "the mask is nowhere fully transparent: there is nothing to draw")
    file = io.BytesIO()
    ours.save(file, "PNG")
    return file.getvalue()


def _as_asked(fault: Fault) -> Fault:
    for place, field in _FIELDS.items():
        if fault.pointer == place or fault.pointer.startswith(f"{place}/"):
            return fault.model_copy(update={"pointer": field})
    return fault


def _text(data: str | bytes) -> str:
    return data if isinstance(data, str) else base64.b64encode(data).decode()
