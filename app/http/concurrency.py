"""Work for a client, which stops when the client leaves; tasks side by side; open streams of a caller."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import Request

from app.http.errors import CLIENT_GONE, Answer, HttpProblem, MalformedHeader
from app.metrics import Metrics
from app.settings import ApiSettings

T = TypeVar("T")
U = TypeVar("U")


class ClientGone(HttpProblem):
    """The client closed the connection before the answer."""

    answer = CLIENT_GONE


class DeadlineExceeded(HttpProblem):
    """The time that the client set is over."""

    answer = Answer(504, "deadline_exceeded", "Deadline exceeded")


class TooManyStreams(HttpProblem):
    """The caller has as many open event streams as are allowed."""

    answer = Answer(429, "too_many_streams", "Too many event streams are open", 5)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, and cancel it when the client leaves. The body of the request must have been read.

    Raises:
        ClientGone: the work was cancelled.
    """
    working = asyncio.current_task()
    assert working is not None
    cancels = 0

    async def watch() -> None:
        nonlocal cancels
        while (await request.receive())["type"] != "http.disconnect":
            pass
        while True:  # Python 3.11's wait_for may swallow a cancellation (python/cpython#86296)
            cancels += 1
            working.cancel()
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        for _ in range(cancels):
            working.uncancel()
        if cancels and not working.cancelling():  # nobody else cancelled the work
            raise ClientGone("the client left before the answer") from None
        raise
    finally:
        watching.cancel()


async def in_time(request: Request, work: Callable[[], Coroutine[Any, Any, T]], longest_s: float) -> T:
    """The result of the work, within `longest_s` and the `X-Request-Timeout` since the request arrived.

    Raises:
        MalformedHeader: `X-Request-Timeout` is no number of seconds.
        DeadlineExceeded: the time of `X-Request-Timeout` is over.
        TimeoutError: `longest_s` is over.
    """
    client_s = _timeout_s(request.headers.get("x-request-timeout"))
    ends = asyncio.get_running_loop().time() + longest_s
    client_ends = request.state.arrived + client_s
    try:
        async with asyncio.timeout_at(min(ends, client_ends)) as limit:
            return await work()
    except TimeoutError:
        if limit.expired() and client_ends < ends:
            raise DeadlineExceeded(f"the {client_s:g} s of X-Request-Timeout are over") from None
        raise


def _timeout_s(header: str | None) -> float:
    if header is None:
        return math.inf
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise MalformedHeader("X-Request-Timeout must be a number of seconds above 0")
    return seconds


async def run_for_client(
    request: Request, settings: ApiSettings, work: Callable[[], Coroutine[Any, Any, T]]
) -> T:
    """The result of the work, which is cancelled when the client leaves or has waited too long.

    Raises:
        ClientGone, DeadlineExceeded
        app.http.errors.MalformedHeader: of `X-Request-Timeout`.
        TimeoutError: the work took longer than the setting `clip_timeout_s`.
    """
    return await while_connected(request, in_time(request, work, settings.clip_timeout_s))


async def all_of(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results, in order. If one fails the others are cancelled, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """The results of two coroutines of different types, as `all_of`."""
    results: list[Any] = await all_of([first, second])
    return results[0], results[1]


class StreamSlots:
    """Counts the open event streams of each caller, in this process."""

    def __init__(self, per_caller: int, metrics: Metrics) -> None:
        self._per_caller = per_caller
        self._open: Counter[str] = Counter()
        self._metrics = metrics

    def check(self, caller: str) -> None:
        """Raises TooManyStreams: the caller may open no more."""
        if self._open[caller] >= self._per_caller:
            raise TooManyStreams(
                f"{self._per_caller} event streams are open already; no caller may have more"
            )

    @contextmanager
    def open(self, caller: str) -> Iterator[None]:
        """Count a stream while it is open."""
        self._open[caller] += 1
        self._metrics.streams.inc()
        try:
            yield
        finally:
            self._metrics.streams.dec()
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]
