"""Pictures come out upright, RGB, on white and scaled right, or are refused before they cost anything."""

import base64
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.http.image_input import (
    ImageRefused,
    ImageTooLarge,
    ImageUrlRefused,
    Source,
    UnsupportedImage,
    decode,
)
from jobs import images
from jobs.images import ImageLimits

LIMITS = ImageLimits(pixels=40_000_000, side=16_384, aspect=50)


def file(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def read(data: bytes | str, limits: ImageLimits = LIMITS) -> Image.Image:
    return decode(Source(data, "#/images/3"), limits)


def png_header(width: int, height: int) -> bytes:
    """A PNG of 1 bit per pixel that claims a size, with as much data as it takes to look whole."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_six_formats_are_read(format: str) -> None:
    picture = read(file(Image.new("RGB", (40, 30), "red"), format))
    assert (picture.mode, picture.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(picture).mean((0, 1)) - (255, 0, 0)).max() < 3


def test_pixels_are_those_of_the_file() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    assert np.array_equal(np.asarray(read(file(Image.fromarray(pixels)))), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read(file(Image.fromarray(pixels), exif=exif))
    assert picture.size == ((40, 20) if orientation < 5 else (20, 40))


def transparent(mode: str) -> bytes:
    half = Image.new("RGBA", (40, 20), (0, 0, 255, 255))
    half.paste((255, 0, 0, 0), (0, 0, 20, 20))
    if mode == "P":
        paletted = Image.new("P", (40, 20), 1)
        paletted.putpalette([255, 0, 0, 0, 0, 255])
        paletted.paste(0, (0, 0, 20, 20))
        return file(paletted, transparency=0)
    return file(half.convert(mode))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(mode: str) -> None:
    picture = read(transparent(mode))
    assert picture.getpixel((5, 5)) == (255, 255, 255)
    assert picture.getpixel((30, 5)) != (255, 255, 255)


def test_16_bit_gray_is_scaled_not_clipped() -> None:
    gray = np.array([[0, 257, 40_000, 65_535]], np.uint16)
    picture = read(file(Image.fromarray(gray)))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 1, 156, 255]


@pytest.mark.parametrize(
    ("picture", "format", "color"),
    [
        (Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "JPEG", (254, 0, 0)),
        (Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
        (Image.new("1", (9, 9), 1), "PNG", (255, 255, 255)),
        (Image.new("L", (9, 9), 77), "PNG", (77, 77, 77)),
    ],
)
def test_other_modes_become_rgb(picture: Image.Image, format: str, color: tuple[int, int, int]) -> None:
    pixel = np.asarray(read(file(picture, format)), np.int32)[4, 4]
    assert np.abs(pixel - color).max() <= 2


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "green", "blue")]
    assert read(file(frames[0], "GIF", save_all=True, append_images=frames[1:])).getpixel((4, 4)) == (
        255,
        0,
        0,
    )


def test_base64_bare_wrapped_or_in_a_data_url() -> None:
    data = file(Image.new("RGB", (3, 3), "red"))
    text = base64.b64encode(data).decode()
    for said in (
        text,
        base64.encodebytes(data).decode(),
        f"data:image/png;base64,{text}",
        f"DATA:;base64,{text}",
    ):
        assert read(said).size == (3, 3)


JPEG = file(Image.fromarray(np.random.default_rng(2).integers(0, 256, (200, 200, 3), np.uint8)), "JPEG")


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        pytest.param(JPEG[: len(JPEG) // 2], ImageRefused, "truncated", id="truncated JPEG"),
        pytest.param(file(Image.new("RGB", (99, 99)))[:-30], ImageRefused, "truncated", id="truncated PNG"),
        pytest.param(png_header(30_000, 30_000), ImageTooLarge, "at most 40000000", id="30000 x 30000"),
        pytest.param(png_header(13_000, 13_000), ImageTooLarge, "at most 40000000", id="13000 x 13000"),
        pytest.param(png_header(20_000, 100), ImageTooLarge, "16384", id="a long side"),
        pytest.param(png_header(1000, 10), ImageRefused, "50 times", id="a thin strip"),
        pytest.param(b"not a picture at all", UnsupportedImage, "JPEG, PNG, WebP", id="a text file"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", UnsupportedImage, "JPEG", id="SVG"),
        pytest.param(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UnsupportedImage, "JPEG", id="EPS"
        ),
        pytest.param(file(Image.new("RGB", (9, 9)), "PPM"), UnsupportedImage, "JPEG", id="PPM"),
        pytest.param(file(Image.new("F", (9, 9)), "TIFF"), ImageRefused, "damaged", id="32-bit TIFF"),
        pytest.param(b"", ImageRefused, "empty", id="nothing"),
        pytest.param("", ImageRefused, "empty", id="no text"),
        pytest.param("data:image/png,abc", ImageRefused, "data URL", id="data URL without base64"),
        pytest.param("abc", ImageRefused, "base64", id="not base64"),
        pytest.param("\ud800", ImageRefused, "base64", id="half a surrogate pair"),
        pytest.param("https://example.org/cat.jpg", ImageUrlRefused, "not fetched", id="URL"),
    ],
)
def test_a_bad_picture_is_refused_with_its_place(
    data: bytes | str, kind: type[ImageRefused], words: str
) -> None:
    with pytest.raises(ImageRefused, match=words) as refused:
        read(data)
    assert type(refused.value) is kind
    assert refused.value.faults[0].pointer == "#/images/3"


def flipped(data: bytearray, rng: np.random.Generator) -> bytes:
    for place in rng.integers(0, len(data), 8):
        data[place] = rng.integers(0, 256)
    return bytes(data)


def shortened(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[: rng.integers(1, len(data))])


@pytest.mark.parametrize("damage", [flipped, shortened])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_files_are_read_or_refused_but_nothing_else(
    format: str, damage: Callable[[bytearray, np.random.Generator], bytes]
) -> None:
    rng = np.random.default_rng(3)
    whole = file(Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)), format)
    for _ in range(60):
        try:
            assert read(damage(bytearray(whole), rng), ImageLimits(10_000, 1000, 50)).mode == "RGB"
        except ImageRefused:
            continue


def test_a_large_jpeg_may_be_read_smaller_but_not_too_small() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8)
    photo = Image.fromarray(pixels).resize((4000, 3000), Image.Resampling.BICUBIC)
    turned = photo.getexif()
    turned[0x0112] = 6
    whole, small = images.decode(file(photo, "JPEG"), LIMITS), images.decode(file(photo, "JPEG"), LIMITS, 448)
    assert (whole.size, small.size) == ((4000, 3000), (1000, 750))
    off = np.abs(np.asarray(whole.resize((224, 224))).astype(int) - np.asarray(small.resize((224, 224))))
    assert off.mean() < 1
    assert images.decode(file(photo, "JPEG", exif=turned), LIMITS, 448).size == (750, 1000)
    assert images.decode(file(photo, "JPEG"), LIMITS, 1600).size == (4000, 3000)
    assert images.decode(file(photo, "WEBP"), LIMITS, 448).size == (4000, 3000)
    with pytest.raises(images.ImageTooLarge):
        images.decode(file(photo, "JPEG"), ImageLimits(1_000_000, 9999, 9), 448)
