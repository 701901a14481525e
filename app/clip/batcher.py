"""Dynamic batching: items of many callers become one call of a function, as soon as the device is free."""

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

GATHER_FRACTION = 0.2  # the next batch waits so much of the last one's duration for callers to return
BATCH_MULTIPLE = 8  # on a CPU, 9 to 15 items cost as much as 16: the batch is rounded down


class Device:
    """The threads that compute. Each runs one batch at a time, first come, first served.

    Args:
        threads: batches that run at once: one on a GPU, one per core on a CPU.
        use_cores: called on the thread of a batch with the number of cores that the batch may use.
        prepares: items are prepared on the same cores.
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
        """Call a function on one of the threads. The caller holds `turn`.

        Args:
            others: the number of batches that follow at once.
            most: the largest number of cores to use.
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
        """Accept no more work. Batches that run end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _call(self, cores: int, function: Callable[[list[Item]], Result], items: list[Item]) -> Result:
        self._use_cores(cores)
        return function(items)


@dataclass(frozen=True)
class Done(Generic[Result]):
    """The results of a caller's items, in order, and the time they took."""

    results: list[Result]
    queue_s: float  # until the first item was on the device
    run_s: float  # from then until the last result


class Reservation:
    """The places of one request. Requests take turns, whatever the number of their items.

    Args:
        left: items without a result.
    """

    def __init__(self, left: int) -> None:
        self.left = left
        self.calls: deque[Any] = deque()  # that wait


@dataclass(frozen=True)
class BatchLimits:
    """How a batcher forms batches, and how much work it accepts."""

    max_batch: int
    max_reserved: int  # items in work at once, from `reserve` to their results
    max_wait_s: float = math.inf  # no more items are accepted than can be done so soon, at the recent speed
    at_once: int = 1  # batches that run at once, if the device has as many threads
    max_cores: int | None = None  # of a batch that runs alone; None: all


@dataclass(eq=False)
class _Call(Generic[Item, Result]):
    items: Sequence[Item]
    reservation: Reservation
    done: asyncio.Future[None]
    submitted: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    taken: int = 0  # items[:taken] are or were on the device
    results: dict[int, Result] = field(default_factory=dict)


class Batcher(Generic[Item, Result]):
    """Runs `function` on the items of many callers at once.

    A batch starts when the device is free and items wait. It takes one item of each request in turn, so that
    no request waits behind the thousands of another; free threads share the items. A batch waits in two
    cases:

    - The last batch answered several callers, who may return at once. The next batch waits for as many
      callers, for a share of the last batch's duration at most: else the first of them would get a batch
      alone, and the others would wait for its end.
    - All cores of the device prepare items. The batch waits until it is full, or for the time of a full
      batch: else it would take cores from the preparation for a few items.

    If `function` raises, the batch runs again in halves, down to the faulty item: only its caller gets
    the exception. Items of callers that were cancelled are dropped before they reach the device.

    Use as an async context manager; leaving it cancels the callers that still wait.

    Args:
        function: items -> one result each, in order; runs on the threads of the device.
        observe: called with the size of each batch and its duration in seconds.
    """

    def __init__(
        self,
        function: Callable[[list[Item]], Sequence[Result]],
        device: Device,
        limits: BatchLimits,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._function = function
        self._device = device
        self._limits = limits
        self._at_once = min(limits.at_once, device.threads)
        self._max_cores = limits.max_cores or device.threads
        self._observe = observe
        self._closed = False
        self._reserved = 0
        self._item_s = 0.0  # recent duration per item
        self._reservations: set[Reservation] = set()
        self._waiting: deque[Reservation] = deque()  # those with waiting calls, in the order of their turns
        self._open: set[_Call[Item, Result]] = set()  # calls that wait or run
        self._work_came = asyncio.Event()
        self._gathering = asyncio.Lock()  # its holder forms the next batch
        self._running = 0  # batches
        self._preparing = 0  # items
        self._expected = 0  # callers answered by the last batches, who may return
        self._back_by = 0.0  # until when the next batch waits for them
        self._servers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._servers = [asyncio.create_task(self._serve()) for _ in range(self._at_once)]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closed = True
        for server in self._servers:
            server.cancel()
        await asyncio.wait(self._servers)
        self._servers.clear()  # tasks reference this object: a cycle would keep it in memory
        for call in self._open:
            call.done.cancel()

    @property
    def reserved(self) -> int:
        """Items in work."""
        return self._reserved

    @contextmanager
    def reserve(self, count: int) -> Iterator[Reservation]:
        """Reserve places for items, from before their preparation until their results.

        Raises:
            Overloaded: as `check` finds; no place is reserved.
        """
        self.check(count)
        reservation = Reservation(count)
        self._reservations.add(reservation)
        self._reserved += count
        try:
            yield reservation
        finally:
            self._reservations.discard(reservation)
            self._reserved -= count

    def check(self, count: int) -> None:
        """Raises Overloaded: too few places, too long a wait, or the model is being unloaded."""
        if self._closed:
            raise Overloaded("the model is being unloaded")
        limits = self._limits
        if self._reserved + count > limits.max_reserved:
            raise Overloaded(
                f"{self._reserved} of {limits.max_reserved} places are taken; {count} are needed"
            )
        each_s = self._item_s / self._at_once
        if each_s * self._reserved > limits.max_wait_s:  # else all items are done in time
            wait_s = each_s * sum(min(other.left, count) for other in self._reservations)
            if wait_s > limits.max_wait_s:
                raise Overloaded(
                    f"the wait would be about {wait_s:.0f} s; at most {limits.max_wait_s:g} s are allowed"
                )

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """While an item is prepared, which is submitted next if the preparation succeeds."""
        self._preparing += 1
        try:
            yield
        finally:
            self._preparing -= 1
            self._work_came.set()

    async def submit(self, items: Sequence[Item], reservation: Reservation) -> Done[Result]:
        """One result per item, in order. The items have places in the reservation."""
        if not items:
            return Done([], 0.0, 0.0)
        call: _Call[Item, Result] = _Call(items, reservation, asyncio.get_running_loop().create_future())
        if not reservation.calls:
            self._waiting.append(reservation)
        reservation.calls.append(call)
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
        self._back_by = now + GATHER_FRACTION * seconds

    async def _gather(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._back_by - time.perf_counter()):
                while len(self._waiting) < self._expected:
                    self._work_came.clear()
                    await self._work_came.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.max_batch * self._item_s):
                while self._is_filling():
                    self._work_came.clear()
                    await self._work_came.wait()
        self._work_came.set()

    def _is_filling(self) -> bool:
        free = self._at_once - self._running
        busy = self._device.prepares and self._preparing >= free
        return busy and 0 < self._count() < free * self._limits.max_batch

    def _count(self) -> int:
        """Items that wait."""
        return sum(len(call.items) - call.taken for waiting in self._waiting for call in waiting.calls)

    def _take(self) -> tuple[list[tuple[_Call[Item, Result], int]], int]:
        """The next batch, and the number of batches that follow at once."""
        batch: list[tuple[_Call[Item, Result], int]] = []
        now = time.perf_counter()
        waiting = self._count()
        free = self._at_once - self._running
        share = math.ceil(waiting / free)
        if self._device.prepares and share > BATCH_MULTIPLE:
            share -= share % BATCH_MULTIPLE
        self._expected = max(0, self._expected - min(share, len(self._waiting)))
        while self._waiting and len(batch) < min(share, self._limits.max_batch):
            reservation = self._waiting.popleft()
            while reservation.calls and reservation.calls[0].done.done():  # cancelled, or an item failed
                reservation.calls.popleft()
            if not reservation.calls:
                continue
            call = reservation.calls[0]
            if call.taken == 0:
                call.started = now
            batch.append((call, call.taken))
            call.taken += 1
            if call.taken == len(call.items):
                reservation.calls.popleft()
            if reservation.calls:
                self._waiting.append(reservation)
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
        self._expect(len({id(call.reservation) for call, _ in batch}), seconds)
        for (call, index), result in zip(batch, results, strict=True):
            call.reservation.left -= 1
            call.results[index] = result
            if len(call.results) == len(call.items) and not call.done.done():
                call.done.set_result(None)

    def _call_function(self, items: list[Item]) -> Sequence[Result]:
        results = self._function(items)
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results for {len(items)} items")
        return results
