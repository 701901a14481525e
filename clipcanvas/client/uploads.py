"""Files that are sent as they are, a piece at a time."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx

PIECE_BYTES = 2**20


def pieces(path: Path, http: httpx.Client | httpx.AsyncClient) -> Iterator[bytes] | AsyncIterator[bytes]:
    """The file in pieces, as this client wants them."""
    return _awaited(path) if isinstance(http, httpx.AsyncClient) else _read(path)


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


async def _awaited(path: Path) -> AsyncIterator[bytes]:
    read = _read(path)
    while piece := await asyncio.to_thread(next, read, b""):
        yield piece
