"""Pictures on their way through one CLIP: read on threads while the model computes, each of them once."""

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

from app.clip.batcher import Batcher, Lane
from app.http.concurrency import all_of
from app.http.image_input import ImageRefused, Source, file_of, refusal
from jobs import images
from models.clip import Embeddings, Pixels

Key = TypeVar("Key", bound=Hashable)


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
class Seen:
    """A picture's embedding, and what it took."""

    row: Embeddings  # (D,)
    decode_s: float
    queue_s: float
    encode_s: float


@dataclass
class _Flight:
    """A picture that is on its way, and how many wait for it."""

    task: asyncio.Task[Seen]
    waiting: int = 0


class ImagePipeline:
    """Makes embeddings of pictures.

    A picture goes to the batcher as soon as it is read, in the lane of its request. The same file twice at
    once, by whichever callers, is read and encoded once; and not again as long as its row is in `rows`.

    Args:
        batcher: encodes what `prepare` makes.
        prepare: a picture's file -> pixels, on a thread of the pool; may raise `jobs.images.ImageRefused`.
        pool: threads that read pictures.
        window: pictures of one request that are read at once; others' are read in between.
        rows: embeddings kept, by the hash of their file.
    """

    def __init__(
        self,
        batcher: Batcher[Pixels, Embeddings],
        prepare: Callable[[bytes], Pixels],
        pool: Executor,
        window: int,
        rows: EmbeddingCache[bytes],
    ) -> None:
        self._batcher = batcher
        self._prepare = prepare
        self._pool = pool
        self._window = window
        self._rows = rows
        self._flights: dict[bytes, _Flight] = {}

    def reserve(self, count: int) -> AbstractContextManager[Lane]:
        """Places for pictures. Raises app.http.errors.Overloaded: there are not so many."""
        return self._batcher.reserve(count)

    def window(self) -> asyncio.Semaphore:
        """Bounds how many pictures of one request are read at once."""
        return asyncio.Semaphore(self._window)

    async def embed(self, sources: Sequence[Source]) -> list[Seen]:
        """Pictures -> their embeddings, in order.

        Raises:
            app.http.image_input.ImageRefused: one or several cannot be taken; `faults` has all of them.
            app.http.errors.Overloaded: too many pictures are in work.
        """
        window = self.window()

        async def embed(source: Source, lane: Lane) -> Seen | ImageRefused:
            try:
                return await self.embed_one(source, lane, window)
            except ImageRefused as refused:
                return refused

        with self.reserve(len(sources)) as lane:
            if len(sources) == 1:
                return [await self.embed_one(sources[0], lane, window)]
            outcomes = await all_of([embed(source, lane) for source in sources])
        refusals = [outcome for outcome in outcomes if isinstance(outcome, ImageRefused)]
        if refusals:
            refusals[0].faults = tuple(fault for refused in refusals for fault in refused.faults)
            raise refusals[0]
        return [outcome for outcome in outcomes if isinstance(outcome, Seen)]

    async def embed_one(self, source: Source, lane: Lane, window: asyncio.Semaphore) -> Seen:
        """A picture -> its embedding.

        Args:
            lane: where `reserve` holds a place for it.
            window: of the request.

        Raises:
            app.http.image_input.ImageRefused
        """
        async with window:
            loop = asyncio.get_running_loop()
            data, key = await loop.run_in_executor(self._pool, _file_and_hash, source)
        known = self._rows.get(key)
        if known is not None:
            return Seen(known[0], 0.0, 0.0, 0.0)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(self._fly(data, key, lane, window)))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        except images.ImageRefused as refused:
            raise refusal(refused, source.pointer) from refused
        finally:
            flight.waiting -= 1
            if not flight.waiting:  # it has landed, or all have left
                flight.task.cancel()
                if self._flights.get(key) is flight:
                    del self._flights[key]

    async def _fly(self, data: bytes, key: bytes, lane: Lane, window: asyncio.Semaphore) -> Seen:
        began = time.perf_counter()
        async with window:
            with self._batcher.preparing():
                pixels = await asyncio.get_running_loop().run_in_executor(self._pool, self._prepare, data)
        decode_s = time.perf_counter() - began
        done = await self._batcher.submit([pixels], lane)
        row = done.results[0]
        self._rows.put(key, row[None].copy())
        return Seen(row, decode_s, done.queue_s, done.run_s)


def _file_and_hash(source: Source) -> tuple[bytes, bytes]:
    data = file_of(source)
    # processors have instructions for this one: half the time of blake2b
    return data, hashlib.sha256(data).digest()
