"""Files of small images."""

import base64
import io
from typing import Any

from PIL import Image


def png(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """An image's file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def plain(color: str, size: tuple[int, int] = (32, 24)) -> bytes:
    """A PNG of one color."""
    return png(Image.new("RGB", size, color))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
