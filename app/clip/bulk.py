"""Many texts and images in one request: embedded while they arrive, a bounded number at a time."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from fastapi import Request

from app.clip.batched_clip import BatchedClip, Text, TextRefused, Timings
from app.clip.batcher import Reservation
from app.clip.bulk_parsers import BulkItem, Splitter
from app.http.body import check_limit
from app.http.concurrency import while_connected
from app.http.errors import Fault
from app.http.image_input import ImageRefused, Source
from app.settings import ApiSettings
from models.clip import Embeddings


@dataclass
class Embedded:
    """The results of a body, by the indexes of its items."""

    rows: dict[int, Embeddings] = field(default_factory=dict)  # each (D,)
    refused: dict[int, Fault] = field(default_factory=dict)
    tokens: int = 0

    def table(self, dimension: int) -> Embeddings:
        """All rows, (N, D); those of refused items are NaN."""
        table = np.full((len(self.rows) + len(self.refused), dimension), np.nan, np.float32)
        for index, row in self.rows.items():
            table[index] = row
        return table


async def embed_stream(
    request: Request, splitter: Splitter, clip: BatchedClip, settings: ApiSettings, *, skip: bool
) -> Embedded:
    """Embed the items of a body while it arrives. The body is read no faster than its items are embedded.

    Args:
        skip: a refused item does not fail the request.

    Raises:
        InvalidBody, BodyTooLarge, LimitExceeded, MalformedBody, ImageRefused, TextRefused: an item is refused
            and the rest is not read.
        app.http.errors.Overloaded: too many images are in work.
        app.http.concurrency.ClientGone, starlette.requests.ClientDisconnect
    """
    most = max(1, min(2 * clip.max_batch_images, settings.max_waiting_images // 4))  # the rest is for others
    with clip.pipeline.reserve(most) as reservation:
        try:
            async with asyncio.TaskGroup() as group:
                stream = _Stream(clip, reservation, most, settings, skip)
                async for data in request.stream():
                    await stream.start(splitter.feed(data), group)
                await stream.start(splitter.close(), group)
                await while_connected(request, stream.slots.empty())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
    return stream.embedded


class _Stream:
    """The items of one request that are being embedded."""

    def __init__(
        self, clip: BatchedClip, reservation: Reservation, most: int, settings: ApiSettings, skip: bool
    ) -> None:
        self.embedded = Embedded()
        self.slots = _Slots(most, settings.max_body_bytes)
        self._clip = clip
        self._reservation = reservation
        self._most = most
        self._window = clip.pipeline.window()
        self._settings = settings
        self._skip = skip
        self._count = 0

    async def start(self, items: Iterator[BulkItem], group: asyncio.TaskGroup) -> None:
        """Start to embed items, each as soon as a slot is free."""
        for item in items:
            check_limit("#", self._count + 1, self._settings.max_bulk_items, "items")
            await self.slots.enter(item.size)
            group.create_task(self._embed(self._count, item))
            self._count += 1

    async def _embed(self, index: int, item: BulkItem) -> None:
        pointer = f"#/{index}"
        try:
            if item.image is not None:
                embedded = await self._clip.pipeline.embed_one(
                    Source(item.image, pointer), self._reservation, self._window
                )
                self.embedded.rows[index] = embedded.row
            else:
                text = Text(item.text or "", pointer)
                check_limit(pointer, len(text.text), self._settings.max_text_chars, "characters in a text")
                rows, tokens = await self._clip.embed_texts([text], Timings())
                self.embedded.rows[index] = rows[0]
                self.embedded.tokens += tokens
        except (ImageRefused, TextRefused) as refused:
            if not self._skip:
                raise
            self.embedded.refused[index] = refused.faults[0]
        finally:
            self.slots.leave(item.size)
            self._reservation.left = self._most  # the next item takes the place


class _Slots:
    """Slots for items in work: at most `max_items` of `max_bytes` in all, or one larger item."""

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items = 0
        self._bytes = 0
        self._released = asyncio.Event()

    async def enter(self, size: int) -> None:
        """Wait for a slot."""
        while self._items and (self._items == self._max_items or self._bytes + size > self._max_bytes):
            await self._one_released()
        self._items += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        """Release the slot of an item."""
        self._items -= 1
        self._bytes -= size
        self._released.set()

    async def empty(self) -> None:
        """Wait until all slots are free."""
        while self._items:
            await self._one_released()

    async def _one_released(self) -> None:
        self._released.clear()
        await self._released.wait()
