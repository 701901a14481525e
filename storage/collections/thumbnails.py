"""Small images of a collection's images: how they are made, and where in the store they are."""

import hashlib
import io

from PIL import Image

from storage.collections.collection import Collection


def thumbnail_key(collection: Collection, image_id: str) -> str:
    """Where in the store the small image of an image is."""
    return f"{collection.folder}/{hashlib.sha256(image_id.encode()).hexdigest()[:40]}.jpg"


def thumbnail_of(image: Image.Image, side: int) -> bytes:
    """The JPEG file of an image, `side` pixels on its shortest side; it is never enlarged."""
    scale = side / min(image.size)
    if scale < 1:
        width, height = (max(1, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
