"""Small pictures of a collection's images: how they are made, and where in the store they are."""

import hashlib
import io

from PIL import Image

from storage.collections.collection import Collection


def thumbnail_key(collection: Collection, image_id: str) -> str:
    """Where in the store the small picture of an image is."""
    return f"{collection.folder}/{hashlib.sha256(image_id.encode()).hexdigest()[:40]}.jpg"


def thumbnail_of(picture: Image.Image, side: int) -> bytes:
    """The JPEG file of a picture, `side` pixels on its shortest side; it is never enlarged."""
    scale = side / min(picture.size)
    if scale < 1:
        width, height = (max(1, round(length * scale)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()
