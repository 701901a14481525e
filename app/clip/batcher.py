"""Dynamic batching: many callers' items, one call of a function, as soon as the device is free."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from app.http.errors import Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")

_GATHERING = 0.2  # of a batch's time: so long the next one waits for its callers to come back
_EVEN = 8  # a CPU does 9 to 13 items as slowly as 16; and of twelve and four, neither is a good batch


class Device:
    """The threads that compute, each lent to one batch at a time, in the order of asking.

    Args:
        threads: batches that run at once: one on a GPU; on a CPU one per core, and none waits for another.
        use_cores: called on a batch's thread with how many cores it may use: its share of `threads`.
        prepares: items are made ready on the same cores.
    """

    def __init__(
        self,
        threads: int = 1,
        use_cores: Callable[[int], None] = lambda count: None,
        *,
        prepares: bool = False,
    ) -> None:
        self.threads = threads
        self.prepares = prepares
        self.turn = asyncio.Semaphore(threads)
        self._use_cores = use_cores
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="device")
        self._running = 0

    async def run(
        self, function: Callable[[list[Item]], Result], items: list[Item], others: int, most: int
    ) -> Result:
        """Call a function on one of the threads; to be asked within a `turn`.

        Args:
            others: batches that are about to follow.
            most: cores to use at most.
        """
        self._running += 1
        cores = max(1, min(most, self.threads // (self._running + others)))
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._pool, self._call, cores, function, items
            )
        finally:
            self._running -= 1

    def close(self) -> None:
        """Take no more work; what runs on the threads ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _call(self, cores: int, function: Callable[[list[Item]], Result], items: list[Item]) -> Result:
        self._use_cores(cores)
        return function(items)


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

    A batch starts when the device is free and something waits, and takes what waits then, an item of each
    lane in turn, so that nobody waits behind another's thousands; threads that are free share it. Only when
    the last batch answered several callers, who may all be back in a moment, the next one waits for as many,
    a share of that batch's time at most: else the first of them would have a batch for itself, and all others
    would wait for its end. And while all cores of the device make items ready, a batch waits until it is full
    or as long as a full one takes: it would only take the cores from them, and do little with them.

    If `function` raises, the batch is run again in halves, down to the item that is at fault: only its caller
    gets the exception. Callers that were cancelled are dropped before their items reach the device.

    Use as an async context manager; leaving it cancels the callers that still wait.

    Args:
        function: items -> one result each, in order; runs on the device's threads.
        max_reserved: so many items may be in work in all, from `reserve` to their results.
        max_wait_s: nor are more taken than can be done in this time, as fast as it went lately.
        at_once: so many batches may run at once, if the device has as many threads.
        max_cores: cores that a batch may have when it is alone; none: all.
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
        at_once: int = 1,
        max_cores: int | None = None,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._function = function
        self._device = device
        self.max_batch = max_batch  # may be changed at any time
        self._max_reserved = max_reserved
        self._max_wait_s = max_wait_s
        self._at_once = min(at_once, device.threads)
        self._max_cores = max_cores or device.threads
        self._observe = observe
        self._closed = False
        self._reserved = 0
        self._item_s = 0.0  # that an item took lately
        self._lanes: set[Lane] = set()  # of all who have places
        self._waiting: deque[Lane] = deque()  # those with calls, in the order of their turns
        self._open: set[_Call[Item, Result]] = set()  # all that wait or run
        self._work_came = asyncio.Event()
        self._gathering = asyncio.Lock()  # whose holder makes the next batch
        self._running = 0  # batches
        self._preparing = 0  # items
        self._expected = 0  # callers that were answered just now
        self._back_by = 0.0  # when those of them that come back should have
        self._servers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._servers = [asyncio.create_task(self._serve()) for _ in range(self._at_once)]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closed = True
        for server in self._servers:
            server.cancel()
        await asyncio.wait(self._servers)
        self._servers.clear()  # they know this object: a cycle would keep it
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
            Overloaded: as `check` finds. None is taken.
        """
        self.check(count)
        lane = Lane(count)
        self._lanes.add(lane)
        self._reserved += count
        try:
            yield lane
        finally:
            self._lanes.discard(lane)
            self._reserved -= count

    def check(self, count: int) -> None:
        """Raises Overloaded: there are not so many places, it would take too long, or all is over."""
        if self._closed:
            raise Overloaded("it was closed just now")
        if self._reserved + count > self._max_reserved:
            raise Overloaded(
                f"{self._reserved} of {self._max_reserved} places are taken, {count} were asked for"
            )
        each_s = self._item_s / self._at_once
        if each_s * self._reserved > self._max_wait_s:  # else all of it is done in time
            wait_s = each_s * sum(min(lane.left, count) for lane in self._lanes)
            if wait_s > self._max_wait_s:
                raise Overloaded(
                    f"it would take about {wait_s:.0f} s; at most {self._max_wait_s:g} are waited"
                )

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """While an item is made ready that is submitted next, unless it turns out to be none."""
        self._preparing += 1
        try:
            yield
        finally:
            self._preparing -= 1
            self._work_came.set()

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
            async with self._gathering:
                await self._work_came.wait()
                await self._gather()
                await self._device.turn.acquire()
                batch, others = self._take()
            self._running += 1
            try:
                if batch:
                    await self._run(batch, others)
            finally:
                self._running -= 1
                self._device.turn.release()

    def _expect(self, callers: int, seconds: float) -> None:
        now = time.perf_counter()
        self._expected = callers + (self._expected if now < self._back_by else 0)
        self._back_by = now + _GATHERING * seconds

    async def _gather(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._back_by - time.perf_counter()):
                while len(self._waiting) < self._expected:
                    self._work_came.clear()
                    await self._work_came.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.max_batch * self._item_s):
                while self._is_filling():
                    self._work_came.clear()
                    await self._work_came.wait()
        self._work_came.set()

    def _is_filling(self) -> bool:
        free = self._at_once - self._running
        busy = self._device.prepares and self._preparing >= free
        return busy and 0 < self._count() < free * self.max_batch

    def _count(self) -> int:
        """Items that wait."""
        return sum(len(call.items) - call.taken for lane in self._waiting for call in lane.calls)

    def _take(self) -> tuple[list[tuple[_Call[Item, Result], int]], int]:
        """The next batch, and how many are to follow it at once."""
        batch: list[tuple[_Call[Item, Result], int]] = []
        now = time.perf_counter()
        waiting = self._count()
        free = self._at_once - self._running
        share = math.ceil(waiting / free)
        if self._device.prepares and share > _EVEN:
            share -= share % _EVEN
        self._expected = max(0, self._expected - min(share, len(self._waiting)))
        while self._waiting and len(batch) < min(share, self.max_batch):
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
        return batch, min(free - 1, waiting - len(batch))

    async def _run(self, batch: list[tuple[_Call[Item, Result], int]], others: int) -> None:
        batch = [(call, index) for call, index in batch if not call.done.done()]
        if not batch:
            return
        began = time.perf_counter()
        try:
            items = [call.items[index] for call, index in batch]
            results = await self._device.run(self._call_function, items, others, self._max_cores)
        except Exception as error:
            if len(batch) == 1:
                if not batch[0][0].done.done():
                    batch[0][0].done.set_exception(error)
                return
            middle = len(batch) // 2
            await self._run(batch[:middle], others)
            await self._run(batch[middle:], others)
            return
        seconds = time.perf_counter() - began
        self._observe(len(batch), seconds)
        self._item_s += 0.2 * (seconds / len(batch) - self._item_s)
        self._expect(len({id(call.lane) for call, _ in batch}), seconds)
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
