"""Images of requests through one CLIP: decoded on threads while the model computes, each image once."""

import asyncio
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.clip.batcher import Batcher, Reservation
from app.http.concurrency import all_of
from app.http.image_input import ImageRefused, Source, file_of, refusal
from jobs import images
from models.clip import Embeddings, Pixels

Key = TypeVar("Key", bound=Hashable)


class EmbeddingCache(Generic[Key]):
    """A least-recently-used cache of embeddings, of at most `max_rows` rows. Thread-safe."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._rows = 0
        self._entries: OrderedDict[Key, Embeddings] = OrderedDict()  # each (N, D)
        self._lock = threading.Lock()

    def get(self, key: Key) -> Embeddings | None:
        """The rows of a key, if they are in the cache."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: Key, rows: Embeddings) -> None:
        """Add (N, D) rows."""
        with self._lock:
            self._rows += len(rows) - len(self._entries.pop(key, ()))
            self._entries[key] = rows
            while self._rows > self._max_rows:
                self._rows -= len(self._entries.popitem(last=False)[1])


@dataclass(frozen=True)
class EmbeddedImage:
    """The embedding of an image, and the time it took."""

    row: Embeddings  # (D,)
    decode_s: float
    queue_s: float
    encode_s: float


@dataclass
class _Pending:
    """An image that is being embedded, and the number of callers that wait for it."""

    task: asyncio.Task[EmbeddedImage]
    waiting: int = 0


class ImagePipeline:
    """Embeds images.

    An image goes to the batcher as soon as it is decoded. A file that several callers send at once is decoded
    and encoded once, and not again while its embedding is in the cache.

    Args:
        batcher: encodes pixels.
        prepare: file -> pixels, on a thread of the pool; may raise `jobs.images.ImageRefused`.
        pool: threads that decode images.
        window: the number of images of one request that are decoded at once, so that others get their turn.
        cache: embeddings by the hash of the file.
    """

    def __init__(
        self,
        batcher: Batcher[Pixels, Embeddings],
        prepare: Callable[[bytes], Pixels],
        pool: Executor,
        window: int,
        cache: EmbeddingCache[bytes],
    ) -> None:
        self._batcher = batcher
        self._prepare = prepare
        self._pool = pool
        self._window = window
        self._cache = cache
        self._pending: dict[bytes, _Pending] = {}

    def reserve(self, count: int) -> AbstractContextManager[Reservation]:
        """Reserve places for images. Raises app.http.errors.Overloaded."""
        return self._batcher.reserve(count)

    def window(self) -> asyncio.Semaphore:
        """Bounds the number of images of one request that are decoded at once."""
        return asyncio.Semaphore(self._window)

    async def embed(self, sources: Sequence[Source]) -> list[EmbeddedImage]:
        """Images -> their embeddings, in order.

        Raises:
            app.http.image_input.ImageRefused: `faults` lists all images that are refused.
            app.http.errors.Overloaded: too many images are in work.
        """
        window = self.window()

        async def embed(source: Source, reservation: Reservation) -> EmbeddedImage | ImageRefused:
            try:
                return await self.embed_one(source, reservation, window)
            except ImageRefused as refused:
                return refused

        with self.reserve(len(sources)) as reservation:
            if len(sources) == 1:
                return [await self.embed_one(sources[0], reservation, window)]
            outcomes = await all_of([embed(source, reservation) for source in sources])
        refusals = [outcome for outcome in outcomes if isinstance(outcome, ImageRefused)]
        if refusals:
            refusals[0].faults = tuple(fault for refused in refusals for fault in refused.faults)
            raise refusals[0]
        return [outcome for outcome in outcomes if isinstance(outcome, EmbeddedImage)]

    async def embed_one(
        self, source: Source, reservation: Reservation, window: asyncio.Semaphore
    ) -> EmbeddedImage:
        """An image -> its embedding.

        Args:
            reservation: has a place for the image.
            window: of the request.

        Raises:
            app.http.image_input.ImageRefused
        """
        async with window:
            loop = asyncio.get_running_loop()
            data, key = await loop.run_in_executor(self._pool, _file_and_hash, source)
        known = self._cache.get(key)
        if known is not None:
            return EmbeddedImage(known[0], 0.0, 0.0, 0.0)
        pending = self._pending.get(key)
        if pending is None:
            embedding = self._embed(data, key, reservation, window)
            pending = self._pending[key] = _Pending(asyncio.create_task(embedding))
        pending.waiting += 1
        try:
            return await asyncio.shield(pending.task)
        except images.ImageRefused as refused:
            raise refusal(refused, source.pointer) from refused
        finally:
            pending.waiting -= 1
            if not pending.waiting:  # the embedding is done, or all callers have left
                pending.task.cancel()
                if self._pending.get(key) is pending:
                    del self._pending[key]

    async def _embed(
        self, data: bytes, key: bytes, reservation: Reservation, window: asyncio.Semaphore
    ) -> EmbeddedImage:
        began = time.perf_counter()
        async with window:
            with self._batcher.preparing():
                pixels = await asyncio.get_running_loop().run_in_executor(self._pool, self._prepare, data)
        decode_s = time.perf_counter() - began
        done = await self._batcher.submit([pixels], reservation)
        row = done.results[0]
        self._cache.put(key, row[None].copy())
        return EmbeddedImage(row, decode_s, done.queue_s, done.run_s)


def _file_and_hash(source: Source) -> tuple[bytes, bytes]:
    data = file_of(source)
    # processors have instructions for SHA-256: it takes half the time of blake2b
    return data, hashlib.sha256(data).digest()
