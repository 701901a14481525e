"""Images from strangers: a file's bytes in, a checked RGB image out, or why not, in a client's words."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_WHITE = (255, 255, 255, 255)


class ImageRefused(ValueError):
    """An image that is not taken; says why."""

    code = "invalid_image"


class UnsupportedImage(ImageRefused):
    """Not one of the file formats that are read."""

    code = "unsupported_image"


class ImageTooLarge(ImageRefused):
    """More pixels than one image may have."""

    code = "image_too_large"


@dataclass(frozen=True)
class ImageLimits:
    """How large an image may be. It is refused by its header, before it is decoded."""

    pixels: int
    side: int  # pixels
    aspect: float  # longest side over shortest


def decode(data: bytes, limits: ImageLimits, draft_side: int | None = None) -> Image.Image:
    """The image, upright, RGB with 8 bits, transparency laid on white; of an animation the first frame.

    Args:
        draft_side: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its
            sides keep so many pixels.

    Raises:
        UnsupportedImage, ImageTooLarge, ImageRefused: whose message is fit for the client.
    """
    return _read(data, limits, _to_rgb, draft_side)


def decode_alpha(data: bytes, limits: ImageLimits) -> Image.Image:
    """How opaque each pixel is, upright, in 8 bits: 0 is fully transparent. Raises as `decode`."""
    return _read(data, limits, _to_alpha)


def _read(
    data: bytes,
    limits: ImageLimits,
    convert: Callable[[Image.Image], Image.Image],
    draft_side: int | None = None,
) -> Image.Image:
    if not data:
        raise ImageRefused("the image is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, limits)
            if draft_side and image.format == "JPEG":
                image.draft(None, (draft_side, draft_side))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return convert(image)
    except ImageRefused:
        raise
    except UnidentifiedImageError:
        known = ", ".join("WebP" if name == "WEBP" else name for name in FORMATS)
        raise UnsupportedImage(f"not an image of a known format ({known})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLarge(f"far too many pixels; at most {limits.pixels} are allowed") from None
    except Exception as error:  # the decoders raise nearly anything on broken files
        raise ImageRefused("the image is truncated or damaged") from error


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.pixels:
        raise ImageTooLarge(
            f"{width}x{height} is {width * height} pixels; at most {limits.pixels} are allowed"
        )
    if max(size) > limits.side:
        raise ImageTooLarge(f"{width}x{height}; a side is at most {limits.side} pixels long")
    if max(size) > limits.aspect * min(size):
        raise ImageRefused(
            f"{width}x{height}; the longest side is at most {limits.aspect:g} times the shortest"
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
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _to_alpha(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        return image.convert("RGBA").getchannel("A")
    return Image.new("L", image.size, 255)
