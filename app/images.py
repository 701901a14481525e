"""Pictures from strangers: bytes or base64 in, a checked RGB picture out, or why not, in a client's words."""

import base64
import binascii
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from app.schemas import Fault

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_WHITE = (255, 255, 255, 255)


class ImageRefused(ValueError):
    """A picture that is not taken; says which one, and why."""

    code = "invalid_image"

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(detail)
        self.faults: tuple[Fault, ...] = (Fault(pointer=pointer, code=self.code, detail=detail),)


class UnsupportedImage(ImageRefused):
    """Not one of the file formats that are read."""

    code = "unsupported_image"


class ImageTooLarge(ImageRefused):
    """More pixels than one picture may have."""

    code = "image_too_large"


class ImageUrlRefused(ImageRefused):
    """An address, where only the picture itself is taken."""

    code = "image_url_refused"


@dataclass(frozen=True)
class ImageLimits:
    """How large a picture may be. It is refused by its header, before it is decoded."""

    pixels: int
    side: int  # pixels
    aspect: float  # longest side over shortest


@dataclass(frozen=True)
class Source:
    """A picture as it came, and where in the request."""

    data: bytes | str  # a file, or base64 with or without a data URL around it
    pointer: str


def file_of(source: Source) -> bytes:
    """The picture's file. Raises ImageRefused, ImageUrlRefused: it is no base64 of one."""
    return _decode_base64(source.data, source.pointer) if isinstance(source.data, str) else source.data


def decode(source: Source, limits: ImageLimits) -> Image.Image:
    """The picture, upright, RGB with 8 bits, transparency laid on white; of an animation the first frame.

    Raises:
        UnsupportedImage, ImageTooLarge, ImageUrlRefused, ImageRefused: whose message is fit for the client.
    """
    data = file_of(source)
    if not data:
        raise ImageRefused(source.pointer, "the image is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, limits, source.pointer)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except ImageRefused:
        raise
    except UnidentifiedImageError:
        known = ", ".join("WebP" if name == "WEBP" else name for name in FORMATS)
        raise UnsupportedImage(source.pointer, f"not a picture of a known format ({known})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLarge(
            source.pointer, f"far too many pixels; at most {limits.pixels} are allowed"
        ) from None
    except Exception as error:  # the decoders raise nearly anything on broken files
        raise ImageRefused(source.pointer, "the image is truncated or damaged") from error


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


def _check_size(size: tuple[int, int], limits: ImageLimits, pointer: str) -> None:
    width, height = size
    if width * height > limits.pixels:
        raise ImageTooLarge(
            pointer, f"{width}x{height} is {width * height} pixels; at most {limits.pixels} are allowed"
        )
    if max(size) > limits.side:
        raise ImageTooLarge(pointer, f"{width}x{height}; a side is at most {limits.side} pixels long")
    if max(size) > limits.aspect * min(size):
        raise ImageRefused(
            pointer, f"{width}x{height}; the longest side is at most {limits.aspect:g} times the shortest"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # `convert` clips at 255 instead of scaling
        scaled = (np.asarray(image).astype(np.uint32) + 128) // 257  # (H, W) in 0 … 255
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32 bits per pixel have no agreed range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image.convert("RGB")
