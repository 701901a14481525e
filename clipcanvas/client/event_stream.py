"""Read the events of a job, and resume after a dropped connection.

httpx-sse is not used: it hides pings, which tell that the service still runs while a job waits.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing

import httpx

from clipcanvas.client import endpoints
from clipcanvas.client.errors import ApiError, ClipcanvasError, Unreachable
from clipcanvas.client.results import Event
from clipcanvas.client.transport import AsyncTransport, Transport


class EventFeed:
    """Reads one job's events over as many connections as it takes, without gap or duplicate.

    Args:
        after: id of the last event already seen.
        patience_s: seconds without a byte from the service after which an error is raised.
    """

    def __init__(self, url: str, after: str | None = None, patience_s: float = 60) -> None:
        self.ended = False  # the last event was `completed`
        self._url = url
        self._last_id = after
        self._patience_s = patience_s
        self._retry_s = 1.0
        self._last_byte_at = time.monotonic()
        self._id = after  # of the event being read
        self._rest = b""
        self._start_fields()

    def headers(self) -> dict[str, str]:
        """The headers of the next connection."""
        self._forget_cut_event()
        return {} if self._last_id is None else {"Last-Event-ID": self._last_id}

    def read(self, chunk: bytes) -> list[Event]:
        """The events that these bytes complete; keeps the rest."""
        self._last_byte_at = time.monotonic()
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        found = []
        for line in lines:
            event = self._take(line.removesuffix(b"\r").decode(errors="replace"))
            if event:
                found.append(event)
                self.ended = self.ended or event.type == "completed"
        return found

    def pause_after(self, error: httpx.HTTPError | ApiError | None) -> float:
        """Seconds to wait before connecting again, after an error or an early end.

        Raises:
            ClipcanvasError: the error, if waiting does not help or has lasted too long.
        """
        if isinstance(error, ApiError) and not error.retryable:
            raise error
        if time.monotonic() - self._last_byte_at > self._patience_s:
            if isinstance(error, ClipcanvasError):
                raise error
            raise Unreachable(self._url, str(error) or "the event stream keeps ending early") from error
        retry_after_s = error.retry_after_s if isinstance(error, ApiError) else None
        return min(retry_after_s or self._retry_s, 10)

    def _take(self, line: str) -> Event | None:
        if not line:
            event = self._finished()
            self._start_fields()
            return event
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "event":
            self._type = value
        elif name == "data":
            self._data.append(value)
        elif name == "retry" and value.isdigit():
            self._retry_s = int(value) / 1000
        return None  # a line that starts with a colon is a ping

    def _finished(self) -> Event | None:
        self._last_id = self._id  # only now: the service sends a cut event again
        if not self._data:
            return None
        data = json.loads("\n".join(self._data))
        return Event(id=self._last_id or "", type=self._type, data=data if isinstance(data, dict) else {})

    def _forget_cut_event(self) -> None:
        self._rest = b""
        self._id = self._last_id
        self._start_fields()

    def _start_fields(self) -> None:
        self._type = "message"
        self._data: list[str] = []


def follow(transport: Transport, job_id: str, after: str | None) -> Iterator[Event]:
    """The events of a job after one of them, over as many connections as it takes."""
    feed = EventFeed(transport.url, after)
    while not feed.ended:
        error: httpx.HTTPError | ApiError | None = None
        try:
            with closing(transport.stream(endpoints.events(job_id), feed.headers())) as chunks:
                for chunk in chunks:
                    yield from feed.read(chunk)
        except (httpx.HTTPError, ApiError) as caught:
            error = caught
        if not feed.ended:
            time.sleep(feed.pause_after(error))


async def follow_async(transport: AsyncTransport, job_id: str, after: str | None) -> AsyncIterator[Event]:
    """As `follow`."""
    feed = EventFeed(transport.url, after)
    while not feed.ended:
        error: httpx.HTTPError | ApiError | None = None
        try:
            async with aclosing(transport.stream(endpoints.events(job_id), feed.headers())) as chunks:
                async for chunk in chunks:
                    for event in feed.read(chunk):
                        yield event
        except (httpx.HTTPError, ApiError) as caught:
            error = caught
        if not feed.ended:
            await asyncio.sleep(feed.pause_after(error))
