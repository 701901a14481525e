"""Texts and pictures of a request, embedded together, for as long as its client waits."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from app.clip.batched_clip import BatchedClip, Text, Timings
from app.http.body import check_limit
from app.http.concurrency import both
from app.http.image_input import Source
from app.settings import ApiSettings
from models.clip import Embeddings


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


def check_labels(labels: Sequence[str], templates: Sequence[str], settings: ApiSettings) -> None:
    """Raises app.http.body.LimitExceeded: too many, or too long, at `#/labels` and `#/templates`."""
    check_limit("#/labels", len(labels), settings.max_labels, "labels")
    check_limit("#/templates", len(templates), settings.max_templates, "templates")
    texts = len(labels) * len(templates)
    check_limit("#/labels", texts, settings.max_texts, "texts (labels times templates)")
    for field, values in (("labels", labels), ("templates", templates)):
        for index, text in enumerate(values):
            check_limit(f"#/{field}/{index}", len(text), settings.max_text_chars, "characters in a text")
