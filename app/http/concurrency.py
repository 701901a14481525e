"""Clients that leave, or wait for so long only: work for them stops then."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request

from app.http.body import MalformedHeader
from app.http.errors import CLIENT_GONE, Answer, HttpProblem

T = TypeVar("T")


class ClientGone(HttpProblem):
    """The client closed the connection before the answer."""

    answer = CLIENT_GONE


class DeadlineExceeded(HttpProblem):
    """The time that the client set is over."""

    answer = Answer(504, "deadline_exceeded", "Deadline exceeded")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, but cancel it when the client leaves. The request's body must have been read.

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
        while True:  # Python 3.11's wait_for may swallow one (python/cpython#86296)
            cancels += 1
            working.cancel()
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        for _ in range(cancels):
            working.uncancel()
        if cancels and not working.cancelling():  # nobody else wants it to stop
            raise ClientGone("the client left before the answer") from None
        raise
    finally:
        watching.cancel()


async def in_time(request: Request, work: Callable[[], Coroutine[Any, Any, T]], longest_s: float) -> T:
    """Do what `work` begins for `longest_s`, or as `X-Request-Timeout` says, since the request began.

    Raises:
        MalformedHeader: it says no number of seconds.
        DeadlineExceeded: that time is over.
        TimeoutError: `longest_s` is over.
    """
    asked_s = _asked_s(request.headers.get("x-request-timeout"))
    ends = [asyncio.get_running_loop().time() + longest_s, request.state.arrived + asked_s]
    try:
        async with asyncio.timeout_at(min(ends)) as limit:
            return await work()
    except TimeoutError:
        if limit.expired() and ends[1] < ends[0]:
            raise DeadlineExceeded(f"the {asked_s:g} s of X-Request-Timeout are over") from None
        raise


def _asked_s(header: str | None) -> float:
    if header is None:
        return math.inf
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise MalformedHeader("X-Request-Timeout must be a number of seconds above 0")
    return seconds
