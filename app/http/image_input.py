"""Images in requests: bytes or base64 in, a decoded RGB image out, or an error with its place."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from PIL import Image
from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.http.errors import Answer, Fault, HttpProblem
from jobs import images
from jobs.images import ImageLimits

IMAGE: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "description": "data:image/…;base64,… or bare base64 of a JPEG, PNG, WebP, GIF, BMP or TIFF file",
    "examples": ["data:image/gif;base64,R0lGODdhAQABAIEAAP///wAAAAAAAAAAACwAAAAAAQABAAAIBAABBAQAOw=="],
}


def _image_data(value: Any) -> str | bytes:
    if isinstance(value, str | bytes):
        return value
    raise PydanticCustomError("image_type", "an image is a string in JSON, a file in a form")


ImageData = Annotated[str | bytes, PlainValidator(_image_data), WithJsonSchema(IMAGE)]
"""Base64 of a file, or, in a form, the file itself."""


class ImageRefused(HttpProblem):
    """An image is refused; `faults` says which and why."""

    answer = Answer(422, "invalid_image", "An image cannot be read")

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(detail, [Fault(pointer=pointer, code=self.answer.code, detail=detail)])


class UnsupportedImage(ImageRefused):
    """The file is in none of the supported image formats."""

    answer = Answer(415, "unsupported_image", "Unsupported image format")


class ImageTooLarge(ImageRefused):
    """The image has more pixels than are allowed."""

    answer = Answer(413, "image_too_large", "An image is too large")


class ImageUrlRefused(ImageRefused):
    """A URL was sent in place of an image."""

    answer = Answer(422, "image_url_refused", "Images are not fetched from URLs")


_REFUSALS = {kind.answer.code: kind for kind in (ImageRefused, UnsupportedImage, ImageTooLarge)}


@dataclass(frozen=True)
class Source:
    """An image as it was sent, and its place in the request."""

    data: bytes | str  # a file, or base64, bare or in a data URL
    pointer: str


def file_of(source: Source) -> bytes:
    """The file of the image. Raises ImageRefused, ImageUrlRefused: the text is not base64."""
    return _decode_base64(source.data, source.pointer) if isinstance(source.data, str) else source.data


def decode(source: Source, limits: ImageLimits) -> Image.Image:
    """The image, as `jobs.images.decode` returns it.

    Raises:
        UnsupportedImage, ImageTooLarge, ImageUrlRefused, ImageRefused
    """
    return _decode(source, limits, images.decode)


def decode_alpha(source: Source, limits: ImageLimits) -> Image.Image:
    """The opacity of each pixel, as `jobs.images.decode_alpha` returns it. Raises as `decode`."""
    return _decode(source, limits, images.decode_alpha)


def refusal(refused: images.ImageRefused, pointer: str) -> ImageRefused:
    """The error of a refused image, with its place in the request."""
    return _REFUSALS[refused.code](pointer, str(refused))


def _decode(
    source: Source, limits: ImageLimits, function: Callable[[bytes, ImageLimits], Image.Image]
) -> Image.Image:
    data = file_of(source)
    try:
        return function(data, limits)
    except images.ImageRefused as refused:
        raise refusal(refused, source.pointer) from refused


def _decode_base64(text: str, pointer: str) -> bytes:
    if text[:8].lower().startswith(("http://", "https://")):
        raise ImageUrlRefused(pointer, "images by URL are not fetched; send the image itself, as base64")
    if text[:5].lower() == "data:":
        header, comma, text = text.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise ImageRefused(pointer, "a data URL must be data:image/…;base64,…")
    try:
        # command line tools break lines
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ImageRefused(pointer, "not valid base64") from None
