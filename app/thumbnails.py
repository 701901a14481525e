"""Small pictures of a collection's images, kept in the store."""

import asyncio
import hashlib
import io
from collections.abc import Mapping

from PIL import Image

from app.images import Source, decode
from app.resources import Resources
from jobs.collection import Collection


def thumbnail_key(collection: Collection, image_id: str) -> str:
    """Where in the store the small picture of an image is."""
    return f"{collection.folder}/{hashlib.sha256(image_id.encode()).hexdigest()[:40]}.jpg"


async def make_thumbnails(sources: Mapping[int, Source], resources: Resources) -> dict[int, bytes]:
    """The JPEG files of some pictures.

    Raises:
        app.images.ImageRefused
    """
    settings = resources.settings

    def shrink(source: Source) -> bytes:
        picture = decode(source, settings.image_limits)
        scale = settings.thumbnail_side / min(picture.size)
        if scale < 1:
            width, height = (max(1, round(side * scale)) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90)
        return file.getvalue()

    loop = asyncio.get_running_loop()
    made = await asyncio.gather(
        *(loop.run_in_executor(resources.pool, shrink, source) for source in sources.values())
    )
    return dict(zip(sources, made, strict=True))


async def save_thumbnails(files: Mapping[str, bytes], resources: Resources) -> None:
    """Keep files, by their keys."""
    loop = asyncio.get_running_loop()
    await asyncio.gather(
        *(
            loop.run_in_executor(resources.pool, resources.store.save, key, data)
            for key, data in files.items()
        )
    )
