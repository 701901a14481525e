"""Collections that move: read whole, written out, embedded anew with another model."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import numpy as np

from app.clip.batched_clip import Timings
from app.clip.registry import Clips
from app.collections.requests import ReindexRequest
from app.collections.responses import ReindexAnswer, Skipped
from app.collections.service import PAGE, check_memory, clip_of, keep, view
from app.collections.thumbnail_writer import save_thumbnails
from app.dependencies import Resources
from app.http.body import check_limit
from app.http.errors import Answer, HttpProblem
from app.http.image_input import Source
from storage.blobs import KeyMissing
from storage.collections.collection import Collection, Image
from storage.collections.thumbnails import thumbnail_key
from storage.collections.vector_sets import Rows


class ThumbnailsNotKept(HttpProblem):
    """The collection keeps no thumbnails, so there is nothing to embed again."""

    answer = Answer(409, "thumbnails_not_kept", "The collection keeps no thumbnails")


async def pages(collection: Collection, resources: Resources) -> AsyncIterator[tuple[list[Image], Rows]]:
    """All images in order of their ids, and their vectors (N, D), some at a time.

    Those that are added or removed meanwhile may be there or not.
    """
    after: str | None = None
    while ids := await resources.ask_vectors(resources.vectors.ids, collection, PAGE, after):
        rows = await resources.ask_vectors(resources.vectors.vectors, collection, ids)
        images = await resources.ask_vectors(resources.vectors.images, collection, ids)
        there = [
            (image, row)
            for image, row in zip(images, rows, strict=True)
            if image is not None and row is not None
        ]
        if there:
            yield [image for image, _ in there], np.stack([row for _, row in there])
        after = ids[-1]


async def export(collection: Collection, resources: Resources) -> AsyncIterator[str]:
    """The collection as lines of JSON: what it is, then each image with its vector in base64."""
    yield json.dumps(view(collection).model_dump(mode="json")) + "\n"
    async for images, rows in pages(collection, resources):
        for image, row in zip(images, rows, strict=True):
            vector = base64.b64encode(row.astype("<f4").tobytes()).decode()
            line = {
                "id": image.id,
                "metadata": image.metadata,
                "source_url": image.source_url,
                "vector": vector,
            }
            yield json.dumps(line, ensure_ascii=False) + "\n"


async def reindex(
    collection: Collection,
    source: Collection,
    asked: ReindexRequest,
    resources: Resources,
    clips: Clips,
    timings: Timings,
) -> ReindexAnswer:
    """Embed thumbnails of another collection with this one's model, from the image after `asked.after`.

    Raises:
        ThumbnailsNotKept: there is nothing to embed.
    """
    if not source.thumbnails:
        raise ThumbnailsNotKept(f"the collection {source.name!r} keeps no thumbnails to embed anew")
    check_limit("#/limit", asked.limit, resources.settings.max_images, "images")
    await check_memory(resources)
    ids = await resources.ask_vectors(resources.vectors.ids, source, asked.limit + 1, asked.after)
    page = ids[: asked.limit]
    known = await resources.ask_vectors(resources.vectors.images, source, page)
    files: dict[str, bytes] = {}
    skipped: list[Skipped] = []
    for image_id, image in zip(page, known, strict=True):
        try:
            if image is not None and image.thumbnail:
                files[image_id] = await asyncio.to_thread(
                    resources.store.read, thumbnail_key(source, image_id)
                )
                continue
        except KeyMissing:
            pass
        skipped.append(Skipped(id=image_id, code="thumbnail_not_found", detail="no thumbnail was kept of it"))
    images = [image for image in known if image is not None and image.id in files]
    if images:
        sources = [Source(files[image.id], f"#/after/{image.id}") for image in images]
        rows = await clip_of(collection, clips).embed_images(sources, timings)
        if collection.thumbnails:
            await save_thumbnails(
                {thumbnail_key(collection, name): data for name, data in files.items()}, resources
            )
        copies = [
            Image(image.id, image.metadata, image.source_url, thumbnail=collection.thumbnails)
            for image in images
        ]
        await keep(collection, copies, rows, resources)
    return ReindexAnswer(
        added=len(images), skipped=skipped, has_more=len(ids) > len(page), last_id=page[-1] if page else None
    )
