"""Clients that leave: work for them stops when they do."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

T = TypeVar("T")


class ClientGone(RuntimeError):
    """Nobody reads the answer any more."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, but cancel it when the client leaves. The request's body must have been read.

    Raises:
        ClientGone: the work was cancelled.
    """
    working = asyncio.current_task()
    assert working is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        working.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and not working.uncancel():  # nobody else wants it to stop
            raise ClientGone("the client left before the answer") from None
        raise
    finally:
        watching.cancel()
