"""Picture files with the settings that drew them inside, and back again."""

import io
import json
from typing import Any

import structlog
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from models.requests.request import SaveOptions

log = structlog.get_logger(__name__)

CONTENT_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

PNG_KEY = "clipcanvas"
EXIF_IFD, USER_COMMENT, SOFTWARE = 0x8769, 0x9286, 0x0131
MAX_EXIF_BYTES = 65_000  # a segment of a JPEG file has two bytes for its length

_ASCII = b"ASCII\0\0\0"  # how EXIF says the character code of a comment


def encode(picture: Image.Image, save: SaveOptions, settings: dict[str, Any] | None = None) -> bytes:
    """The file of a picture, in the format that was asked for.

    Args:
        settings: to write into it; a JPEG file has no room for those beyond 64 KiB, which are left out.
    """
    buffer = io.BytesIO()
    text = None if settings is None else json.dumps(settings)
    if save.format == "png":
        chunks = PngInfo()
        if text is not None:
            chunks.add_itxt(PNG_KEY, text)
        picture.save(buffer, "PNG", optimize=True, pnginfo=chunks)
        return buffer.getvalue()
    exif = _exif(text) if text is not None else b""
    if save.format == "jpeg":
        if len(exif) > MAX_EXIF_BYTES:
            log.warning("settings too long for a JPEG file, left out", bytes=len(exif))
            exif = b""
        picture.save(buffer, "JPEG", quality=save.quality, optimize=True, exif=exif)
    else:
        picture.save(buffer, "WEBP", quality=save.quality, lossless=save.quality == 100, exif=exif)
    return buffer.getvalue()


def settings_of(file: bytes) -> dict[str, Any] | None:
    """What `encode` wrote into a picture beside its pixels; none: nothing of the sort is there."""
    with Image.open(io.BytesIO(file)) as picture:
        text = picture.info.get(PNG_KEY)
        comment = picture.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
    if isinstance(comment, bytes) and comment.startswith(_ASCII):
        text = comment.removeprefix(_ASCII).decode("ascii")
    try:
        settings = json.loads(text or "")
    except ValueError:
        return None
    return settings if isinstance(settings, dict) else None


def contact_sheet(pictures: list[Image.Image], *, gap: int = 8, max_side: int = 4096) -> Image.Image:
    """Pictures of one size in rows, in order, as near to a square as they fit.

    Args:
        gap: pixels between them and around.
        max_side: pixels; they are made smaller where the sheet would be larger.
    """
    columns = next(count for count in range(1, len(pictures) + 1) if count * count >= len(pictures))
    rows = -(-len(pictures) // columns)
    room = [(max_side - gap) // count - gap for count in (columns, rows)]
    tiles = [picture.copy() for picture in pictures]
    for tile in tiles:
        tile.thumbnail((room[0], room[1]), Image.Resampling.LANCZOS)
    width, height = tiles[0].size
    sheet = Image.new("RGB", (gap + columns * (width + gap), gap + rows * (height + gap)), "white")
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet.paste(tile, (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet


def _exif(text: str) -> bytes:
    exif = Image.Exif()
    exif[SOFTWARE] = "Clipcanvas"
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = _ASCII + text.encode("ascii")
    return exif.tobytes()
