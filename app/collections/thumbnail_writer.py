"""Thumbnails of the pictures that requests bring, made and kept on threads."""

import asyncio
from collections.abc import Mapping

from app.dependencies import Resources
from app.http.image_input import Source, decode
from storage.collections.thumbnails import thumbnail_of


async def make_thumbnails(sources: Mapping[int, Source], resources: Resources) -> dict[int, bytes]:
    """The JPEG files of some pictures.

    Raises:
        app.http.image_input.ImageRefused
    """
    settings = resources.settings

    def shrink(source: Source) -> bytes:
        return thumbnail_of(decode(source, settings.image_limits), settings.thumbnail_side)

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
