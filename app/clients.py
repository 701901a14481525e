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
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_leave(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone("the client left before the answer")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _leave(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
