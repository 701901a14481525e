"""One CLIP for many callers: images decoded on threads, batches for the device, caches of embeddings."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol, Self

import numpy as np

from app.clip.batcher import Batcher, BatchLimits, Device
from app.clip.image_pipeline import EmbeddingCache, ImagePipeline
from app.http.body import check_limit
from app.http.concurrency import both
from app.http.errors import Answer, Fault, HttpProblem
from app.http.image_input import Source
from app.metrics import Metrics
from app.settings import ApiSettings
from jobs.images import ImageLimits, decode
from models.clip import ClipEncoder, Embeddings, Pixels
from models.clip.zero_shot import ensemble, fill_templates

_FEW_TEXTS = 16  # counting their tokens takes less time than waking a thread


class TextRefused(HttpProblem):
    """Texts are longer than the model reads; `faults` lists them."""

    answer = Answer(422, "text_too_long", "A text is too long")

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(faults[0].detail, faults)


@dataclass(frozen=True)
class Text:
    """A text, and its place in the request."""

    text: str
    pointer: str


@dataclass
class Timings:
    """How long one request took, by stage. Work that ran side by side counts once."""

    decode_s: float = 0.0
    queue_s: float = 0.0
    encode_s: float = 0.0

    def add(self, *, decode_s: float = 0.0, queue_s: float, encode_s: float) -> None:
        """Add the times of an item."""
        self.decode_s = max(self.decode_s, decode_s)
        self.queue_s = max(self.queue_s, queue_s)
        self.encode_s = max(self.encode_s, encode_s)

    def headers(self) -> dict[str, str]:
        """The header `Server-Timing`, in milliseconds."""
        parts = (("decode", self.decode_s), ("queue", self.queue_s), ("encode", self.encode_s))
        return {"Server-Timing": ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in parts)}


@dataclass(frozen=True)
class EncoderLimits:
    """How one model forms batches, and how much it caches."""

    images: BatchLimits
    texts: BatchLimits
    window: int
    text_cache_rows: int
    image_cache_rows: int
    exact_decode: bool
    decode: ImageLimits


class BatchedClip:
    """One CLIP, shared by all requests. Use as an async context manager.

    Args:
        templates: from the card of the model.
        pool: threads that decode images and count tokens.
    """

    def __init__(
        self,
        encoder: ClipEncoder,
        templates: Sequence[str],
        device: Device,
        pool: Executor,
        limits: EncoderLimits,
        metrics: Metrics,
    ) -> None:
        self.encoder = encoder
        self.templates = tuple(templates)
        self.max_batch_images = limits.images.max_batch
        self._pool = pool
        self._limits = limits
        self._metrics = metrics
        self._text_cache: EmbeddingCache[str] = EmbeddingCache(limits.text_cache_rows)
        self._label_cache: EmbeddingCache[tuple[tuple[str, ...], tuple[str, ...]]] = EmbeddingCache(
            limits.text_cache_rows
        )
        # callbacks must not reference `self`: a reference cycle would keep an evicted model in memory
        self._images: Batcher[Pixels, Embeddings] = Batcher(
            partial(_encode_images, encoder),
            device,
            limits.images,
            partial(_observe, metrics, "image"),
        )
        self._texts: Batcher[str, Embeddings] = Batcher(
            partial(_encode_texts, encoder, self._text_cache),
            device,
            limits.texts,
            partial(_observe, metrics, "text"),
        )
        self.pipeline = ImagePipeline(
            self._images,
            partial(_prepare, encoder, limits),
            pool,
            limits.window,
            EmbeddingCache(limits.image_cache_rows),
        )
        self._batchers = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._batchers.enter_async_context(self._images)
        await self._batchers.enter_async_context(self._texts)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._batchers.aclose()

    @property
    def in_use(self) -> bool:
        """Whether items are in work."""
        return bool(self._images.reserved or self._texts.reserved)

    def check_room(self) -> None:
        """Raises app.http.errors.Overloaded: the model accepts no more image now."""
        self._images.check(1)

    async def embed_images(self, sources: Sequence[Source], timings: Timings) -> Embeddings:
        """Images -> (N, D)

        Raises:
            app.http.image_input.ImageRefused: `faults` lists all images that are refused.
            app.http.errors.Overloaded: too many images are in work.
        """
        if not sources:
            return self._no_rows()
        embedded = await self.pipeline.embed(sources)
        for image in embedded:
            timings.add(decode_s=image.decode_s, queue_s=image.queue_s, encode_s=image.encode_s)
        self._metrics.queue_seconds.labels("image").observe(max(image.queue_s for image in embedded))
        return np.stack([image.row for image in embedded])

    async def embed_texts(self, texts: Sequence[Text], timings: Timings) -> tuple[Embeddings, int]:
        """Texts -> (N, D), and the number of their tokens.

        Raises:
            TextRefused: `faults` lists all texts that are too long for the model.
            app.http.errors.Overloaded: too many texts are in work.
        """
        if not texts:
            return self._no_rows(), 0
        if len(texts) <= _FEW_TEXTS:
            tokens = self._count_tokens(texts)
        else:
            tokens = await asyncio.get_running_loop().run_in_executor(self._pool, self._count_tokens, texts)
        known = {item.text: self._text_cache.get(item.text) for item in texts}
        missing = [text for text, rows in known.items() if rows is None]
        self._metrics.text_cache.labels("hit").inc(len(known) - len(missing))
        self._metrics.text_cache.labels("miss").inc(len(missing))
        with self._texts.reserve(len(missing)) as reservation:
            done = await self._texts.submit(missing, reservation)
        timings.add(queue_s=done.queue_s, encode_s=done.run_s)
        self._metrics.queue_seconds.labels("text").observe(done.queue_s)
        found = {text: rows[0] for text, rows in known.items() if rows is not None}
        found.update(zip(missing, done.results, strict=True))
        return np.stack([found[item.text] for item in texts]), tokens

    async def embed_labels(
        self, labels: Sequence[str], templates: Sequence[str], timings: Timings
    ) -> Embeddings:
        """One row per label, the average over the templates: (L, D). Raises as `embed_texts`."""
        key = (tuple(labels), tuple(templates))
        rows = self._label_cache.get(key)
        if rows is None:
            filled = fill_templates(labels, templates)
            texts = [Text(text, f"#/labels/{index // len(templates)}") for index, text in enumerate(filled)]
            embeddings, _ = await self.embed_texts(texts, timings)
            rows = ensemble(embeddings, len(templates))
            self._label_cache.put(key, rows)
        return rows

    def _count_tokens(self, texts: Sequence[Text]) -> int:
        longest = self.encoder.context_length
        counts = [self.encoder.count_tokens(item.text) for item in texts]
        faults = {
            item.pointer: Fault(
                pointer=item.pointer,
                code="text_too_long",
                detail=f"the text has more than the {longest} tokens that {self.encoder.name} reads",
            )
            for item, count in zip(texts, counts, strict=True)
            if count > longest
        }
        if faults:
            raise TextRefused(list(faults.values())[:100])
        return sum(counts)

    def _no_rows(self) -> Embeddings:
        return np.zeros((0, self.encoder.dimension), np.float32)


def _prepare(encoder: ClipEncoder, limits: EncoderLimits, data: bytes) -> Pixels:
    draft_side = None if limits.exact_decode else encoder.draft_size
    return encoder.preprocess(decode(data, limits.decode, draft_side), exact=limits.exact_decode)


def _encode_images(encoder: ClipEncoder, batch: list[Pixels]) -> list[Embeddings]:
    return list(encoder.encode_images(np.stack(batch)))


def _encode_texts(encoder: ClipEncoder, cache: EmbeddingCache[str], batch: list[str]) -> list[Embeddings]:
    # an earlier batch may have encoded the same text
    found = {text: cache.get(text) for text in batch}
    missing = [text for text, rows in found.items() if rows is None]
    if missing:
        for text, row in zip(missing, encoder.encode_texts(missing), strict=True):
            found[text] = rows = row[None].copy()
            # cached here, on the thread of the device, so that work for callers who left is not lost
            cache.put(text, rows)
    return [rows[0] for rows in map(found.__getitem__, batch) if rows is not None]


def _observe(metrics: Metrics, tower: str, size: int, seconds: float) -> None:
    metrics.batch_size.labels(tower).observe(size)
    metrics.batch_seconds.labels(tower).observe(seconds)


class TextOrImage(Protocol):
    """One of the two is not None."""

    text: str | None
    image: str | bytes | None


async def embed(
    clip: BatchedClip, items: Mapping[str, TextOrImage], settings: ApiSettings, timings: Timings
) -> tuple[Embeddings, int]:
    """Texts and images by their pointers, in order -> (N, D), and the number of tokens of the texts."""
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
    else:  # the empty list returns at once
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
