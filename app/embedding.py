"""Texts and pictures of a request, embedded together, for as long as its client waits."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from fastapi import Request

from app.bodies import check_limit
from app.clients import while_connected
from app.encoder import BatchedClip, Text, Timings
from app.images import Source
from app.resources import Resources
from app.settings import ApiSettings
from models.clip import Embeddings

T = TypeVar("T")
U = TypeVar("U")


class TextOrImage(Protocol):
    """One of the two is said."""

    text: str | None
    image: str | bytes | None


async def embed(
    clip: BatchedClip, items: Mapping[str, TextOrImage], settings: ApiSettings, timings: Timings
) -> tuple[Embeddings, int]:
    """Texts and pictures by their pointers, in order -> (N, D), and how many tokens the texts are."""
    places = list(enumerate(items.items()))
    texts = {i: Text(item.text, pointer) for i, (pointer, item) in places if item.text is not None}
    images = {i: Source(item.image, pointer) for i, (pointer, item) in places if item.image is not None}
    check_limit("#", len(images), settings.max_images, "images")
    check_limit("#", len(texts), settings.max_texts, "texts")
    for text in texts.values():
        check_limit(text.pointer, len(text.text), settings.max_text_chars, "characters in a text")
    sources, words = list(images.values()), list(texts.values())
    if sources and words:
        image_rows, (text_rows, tokens) = await both(
            clip.embed_images(sources, timings), clip.embed_texts(words, timings)
        )
    else:  # the empty one returns at once
        image_rows = await clip.embed_images(sources, timings)
        text_rows, tokens = await clip.embed_texts(words, timings)
    rows = np.empty((len(items), clip.encoder.dimension), np.float32)
    rows[list(images)] = image_rows
    rows[list(texts)] = text_rows
    return rows, tokens


async def answer(request: Request, resources: Resources, work: Coroutine[Any, Any, T]) -> T:
    """What comes of the work; it stops when the client leaves or has waited for too long."""
    async with asyncio.timeout(resources.settings.clip_timeout_s):
        return await while_connected(request, work)


async def both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """Side by side; if one fails the other is cancelled, and its error is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()


def check_labels(labels: Sequence[str], templates: Sequence[str], settings: ApiSettings) -> None:
    """Raises app.bodies.LimitExceeded: too many, or too long, at `#/labels` and `#/templates`."""
    check_limit("#/labels", len(labels), settings.max_labels, "labels")
    check_limit("#/templates", len(templates), settings.max_templates, "templates")
    texts = len(labels) * len(templates)
    check_limit("#/labels", texts, settings.max_texts, "texts (labels times templates)")
    for field, values in (("labels", labels), ("templates", templates)):
        for index, text in enumerate(values):
            check_limit(f"#/{field}/{index}", len(text), settings.max_text_chars, "characters in a text")
