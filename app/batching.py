"""Dynamic batching: many callers' items, one call of a function, as soon as the device is free."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Overloaded(RuntimeError):
    """As many items are in work as may."""


class Device:
    """The one thread that touches a device, lent to one batch at a time, in the order of asking."""

    def __init__(self, name: str = "device") -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self.turn = asyncio.Lock()

    def close(self) -> None:
        """Take no more work; what runs on the thread ends by itself."""
        self.thread.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Done(Generic[Result]):
    """What came of a caller's items, in order, and how long that took."""

    results: list[Result]
    queue_s: float  # until the first of them was on the device
    run_s: float  # from then until the last was done


class Lane:
    """The places of one request. Lanes take turns, however much is in one.

    Args:
        left: items that are not done yet.
    """

    def __init__(self, left: int) -> None:
        self.left = left
        self.calls: deque[Any] = deque()  # those that wait


@dataclass(eq=False)
class _Call(Generic[Item, Result]):
    items: Sequence[Item]
    lane: Lane
    done: asyncio.Future[None]
    submitted: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    taken: int = 0  # items[:taken] are or were on the device
    results: dict[int, Result] = field(default_factory=dict)


class Batcher(Generic[Item, Result]):
    """Runs `function` on the items of many callers at once.

    There is no timer: a batch starts when the device is free and something waits, and takes what waits then,
    an item of each lane in turn, so that nobody waits behind another's thousands. If `function` raises, the
    batch is run again in halves, down to the item that is at fault: only its caller gets the exception.
    Callers that were cancelled are dropped before their items reach the device.

    Use as an async context manager; leaving it cancels the callers that still wait.

    Args:
        function: items -> one result each, in order; runs on the device's thread.
        max_reserved: so many items may be in work in all, from `reserve` to their results.
        max_wait_s: nor are more taken than can be done in this time, as fast as it went lately.
        observe: is told the size of each batch and the seconds it took.
    """

    def __init__(
        self,
        function: Callable[[list[Item]], Sequence[Result]],
        device: Device,
        *,
        max_batch: int,
        max_reserved: int,
        max_wait_s: float = math.inf,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._function = function
        self._device = device
        self.max_batch = max_batch  # may be changed at any time
        self._max_reserved = max_reserved
        self._max_wait_s = max_wait_s
        self._observe = observe
        self._closed = False
        self._reserved = 0
        self._item_s = 0.0  # that an item took lately
        self._lanes: set[Lane] = set()  # of all who have places
        self._waiting: deque[Lane] = deque()  # those with calls, in the order of their turns
        self._open: set[_Call[Item, Result]] = set()  # all that wait or run
        self._work_came = asyncio.Event()
        self._server: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._server = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._closed = True
        self._server.cancel()
        await asyncio.wait([self._server])
        self._server = None  # it knows this object: a cycle would keep it
        for call in self._open:
            call.done.cancel()

    @property
    def reserved(self) -> int:
        """Items in work."""
        return self._reserved

    @contextmanager
    def reserve(self, count: int) -> Iterator[Lane]:
        """Hold places for items, from before they are made ready until their results are there.

        Raises:
            Overloaded: there are not so many places, it would take too long, or all is over. None is taken.
        """
        if self._closed:
            raise Overloaded("it was closed just now")
        if self._reserved + count > self._max_reserved:
            raise Overloaded(
                f"{self._reserved} of {self._max_reserved} places are taken, {count} were asked for"
            )
        wait_s = self._item_s * sum(min(lane.left, count) for lane in self._lanes)
        if wait_s > self._max_wait_s:
            raise Overloaded(f"it would take about {wait_s:.0f} s; at most {self._max_wait_s:g} are waited")
        lane = Lane(count)
        self._lanes.add(lane)
        self._reserved += count
        try:
            yield lane
        finally:
            self._lanes.discard(lane)
            self._reserved -= count

    async def submit(self, items: Sequence[Item], lane: Lane) -> Done[Result]:
        """One result per item, in order; the lane is that of `reserve`."""
        if not items:
            return Done([], 0.0, 0.0)
        call: _Call[Item, Result] = _Call(items, lane, asyncio.get_running_loop().create_future())
        if not lane.calls:
            self._waiting.append(lane)
        lane.calls.append(call)
        self._open.add(call)
        self._work_came.set()
        try:
            await call.done
        finally:
            self._open.discard(call)
        finished = time.perf_counter()
        ordered = [call.results[index] for index in range(len(items))]
        return Done(ordered, call.started - call.submitted, finished - call.started)

    async def _serve(self) -> None:
        while True:
            await self._work_came.wait()
            async with self._device.turn:
                batch = self._take()
                if batch:
                    await self._run(batch)

    def _take(self) -> list[tuple[_Call[Item, Result], int]]:
        batch: list[tuple[_Call[Item, Result], int]] = []
        now = time.perf_counter()
        while self._waiting and len(batch) < self.max_batch:
            lane = self._waiting.popleft()
            while lane.calls and lane.calls[0].done.done():  # cancelled, or failed by one of its items
                lane.calls.popleft()
            if not lane.calls:
                continue
            call = lane.calls[0]
            if call.taken == 0:
                call.started = now
            batch.append((call, call.taken))
            call.taken += 1
            if call.taken == len(call.items):
                lane.calls.popleft()
            if lane.calls:
                self._waiting.append(lane)
        if not self._waiting:
            self._work_came.clear()
        return batch

    async def _run(self, batch: list[tuple[_Call[Item, Result], int]]) -> None:
        batch = [(call, index) for call, index in batch if not call.done.done()]
        if not batch:
            return
        began = time.perf_counter()
        try:
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(
                self._device.thread, self._call_function, [call.items[index] for call, index in batch]
            )
        except Exception as error:
            if len(batch) == 1:
                if not batch[0][0].done.done():
                    batch[0][0].done.set_exception(error)
                return
            middle = len(batch) // 2
            await self._run(batch[:middle])
            await self._run(batch[middle:])
            return
        seconds = time.perf_counter() - began
        self._observe(len(batch), seconds)
        self._item_s += 0.2 * (seconds / len(batch) - self._item_s)
        for (call, index), result in zip(batch, results, strict=True):
            call.lane.left -= 1
            call.results[index] = result
            if len(call.results) == len(call.items) and not call.done.done():
                call.done.set_result(None)

    def _call_function(self, items: list[Item]) -> Sequence[Result]:
        results = self._function(items)
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results for {len(items)} items")
        return results
