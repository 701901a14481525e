"""CLIP for many callers: pictures decoded on threads, batches for the device, and a memory for texts."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, Self, TypeVar

import numpy as np

from app.batching import Batcher, Device, Done
from app.images import ImageRefused, Source, decode
from app.metrics import Metrics
from app.schemas import Fault
from jobs.images import ImageLimits
from models.clip import ClipEncoder, Embeddings, Pixels
from models.clip.zero_shot import ensemble, fill_templates

_FEW_TEXTS = 16  # whose tokens are counted sooner than a thread is woken
Key = TypeVar("Key", bound=Hashable)


class TextRefused(ValueError):
    """Texts that the model cannot read whole."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(faults[0].detail)
        self.faults = tuple(faults)


@dataclass(frozen=True)
class Text:
    """A text, and where in the request it came from."""

    text: str
    pointer: str


@dataclass
class Timings:
    """Where the time of one request went. What ran side by side counts once."""

    decode_s: float = 0.0
    queue_s: float = 0.0
    encode_s: float = 0.0

    def add(self, done: Done[Embeddings]) -> None:
        """Take account of a caller's time in a batcher."""
        self.queue_s = max(self.queue_s, done.queue_s)
        self.encode_s = max(self.encode_s, done.run_s)

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Take the time of what is done inside."""
        began = asyncio.get_running_loop().time()
        yield
        self.decode_s += asyncio.get_running_loop().time() - began

    def header(self) -> str:
        """As `Server-Timing` says it, in milliseconds."""
        parts = (("decode", self.decode_s), ("queue", self.queue_s), ("encode", self.encode_s))
        return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in parts)


class EmbeddingCache(Generic[Key]):
    """The least recently used go first when there are more than `max_rows` rows. Thread-safe."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._rows = 0
        self._entries: OrderedDict[Key, Embeddings] = OrderedDict()  # each (N, D)
        self._lock = threading.Lock()

    def get(self, key: Key) -> Embeddings | None:
        """What was put there, if it is still kept."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: Key, rows: Embeddings) -> None:
        """Keep (N, D) rows."""
        with self._lock:
            self._rows += len(rows) - len(self._entries.pop(key, ()))
            self._entries[key] = rows
            while self._rows > self._max_rows:
                self._rows -= len(self._entries.popitem(last=False)[1])


@dataclass(frozen=True)
class EncoderLimits:
    """How much one model takes at once, and what it may keep."""

    max_batch_images: int
    max_batch_texts: int
    max_waiting_images: int
    max_waiting_texts: int
    text_cache_rows: int
    image: ImageLimits


class BatchedClip:
    """One CLIP, shared by all requests. Use as an async context manager.

    Args:
        templates: of the model's card.
        pool: threads that decode pictures and count tokens.
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
        self._pool = pool
        self._limits = limits
        self._metrics = metrics
        self._text_rows: EmbeddingCache[str] = EmbeddingCache(limits.text_cache_rows)
        self._label_rows: EmbeddingCache[tuple[tuple[str, ...], tuple[str, ...]]] = EmbeddingCache(
            limits.text_cache_rows
        )
        self._images: Batcher[Pixels, Embeddings] = Batcher(
            self._encode_images,
            device,
            max_batch=limits.max_batch_images,
            max_reserved=limits.max_waiting_images,
            observe=partial(self._observe, "image"),
        )
        self._texts: Batcher[str, Embeddings] = Batcher(
            self._encode_texts,
            device,
            max_batch=limits.max_batch_texts,
            max_reserved=limits.max_waiting_texts,
            observe=partial(self._observe, "text"),
        )
        self._batchers = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._batchers.enter_async_context(self._images)
        await self._batchers.enter_async_context(self._texts)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._batchers.aclose()

    async def embed_images(self, sources: Sequence[Source], timings: Timings) -> Embeddings:
        """Pictures -> (N, D)

        Raises:
            app.images.ImageRefused: one or several cannot be taken; `faults` has them all.
            app.batching.Overloaded: too many pictures are in work.
        """
        if not sources:
            return self._no_rows()
        with self._images.reserve(len(sources)):
            with timings.decoding():
                pixels = await self._decode(sources)
            done = await self._images.submit(pixels)
        timings.add(done)
        self._metrics.queue_seconds.labels("image").observe(done.queue_s)
        return np.stack(done.results)

    async def embed_texts(self, texts: Sequence[Text], timings: Timings) -> tuple[Embeddings, int]:
        """Texts -> (N, D), and how many tokens they are.

        Raises:
            TextRefused: some are too long for the model; `faults` has them all.
            app.batching.Overloaded: too many texts are in work.
        """
        if not texts:
            return self._no_rows(), 0
        if len(texts) <= _FEW_TEXTS:
            tokens = self._count_tokens(texts)
        else:
            tokens = await asyncio.get_running_loop().run_in_executor(self._pool, self._count_tokens, texts)
        known = {item.text: self._text_rows.get(item.text) for item in texts}
        missing = [text for text, rows in known.items() if rows is None]
        self._metrics.text_cache.labels("hit").inc(len(known) - len(missing))
        self._metrics.text_cache.labels("miss").inc(len(missing))
        with self._texts.reserve(len(missing)):
            done = await self._texts.submit(missing)
        timings.add(done)
        self._metrics.queue_seconds.labels("text").observe(done.queue_s)
        found = {text: rows[0] for text, rows in known.items() if rows is not None}
        found.update(zip(missing, done.results, strict=True))
        return np.stack([found[item.text] for item in texts]), tokens

    async def embed_labels(
        self, labels: Sequence[str], templates: Sequence[str], timings: Timings
    ) -> Embeddings:
        """One row per label, its templates averaged: (L, D). Raises as `embed_texts`."""
        key = (tuple(labels), tuple(templates))
        rows = self._label_rows.get(key)
        if rows is None:
            filled = fill_templates(labels, templates)
            texts = [Text(text, f"#/labels/{index // len(templates)}") for index, text in enumerate(filled)]
            embeddings, _ = await self.embed_texts(texts, timings)
            rows = ensemble(embeddings, len(templates))
            self._label_rows.put(key, rows)
        return rows

    async def _decode(self, sources: Sequence[Source]) -> list[Pixels]:
        loop = asyncio.get_running_loop()
        tasks = [loop.run_in_executor(self._pool, self._prepare, source) for source in sources]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        pixels = [outcome for outcome in outcomes if isinstance(outcome, np.ndarray)]
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        refusals = [error for error in errors if isinstance(error, ImageRefused)]
        for error in errors:
            if isinstance(error, ImageRefused):
                error.faults = tuple(fault for refusal in refusals for fault in refusal.faults)
            raise error
        return pixels

    def _prepare(self, source: Source) -> Pixels:
        return self.encoder.preprocess(decode(source, self._limits.image))

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

    def _encode_images(self, batch: list[Pixels]) -> list[Embeddings]:
        return list(self.encoder.encode_images(np.stack(batch)))

    def _encode_texts(self, batch: list[str]) -> list[Embeddings]:
        rows = list(self.encoder.encode_texts(batch))
        # kept here, on the device's thread, so that the work of callers who left is not lost
        for text, row in zip(batch, rows, strict=True):
            self._text_rows.put(text, row[None].copy())
        return rows

    def _observe(self, tower: str, size: int, seconds: float) -> None:
        self._metrics.batch_size.labels(tower).observe(size)
        self._metrics.batch_seconds.labels(tower).observe(seconds)

    def _no_rows(self) -> Embeddings:
        return np.zeros((0, self.encoder.dimension), np.float32)
