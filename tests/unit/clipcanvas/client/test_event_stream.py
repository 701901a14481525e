"""Events of a job reach the caller once each, in order, over as many connections as it takes."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from clipcanvas import ApiError, AsyncClient, Client, Event, Unreachable
from clipcanvas.client.event_stream import EventFeed
from tests.support.contract_server import DONE, problem
from tests.unit.clipcanvas.conftest import Serve

STREAM = (
    b": ping\r\n\r\n"
    b'id: 1-0\r\nevent: status\r\ndata: {"status": "running"}\r\n\r\n'
    b"retry: 10\n\n"
    b'id: 2-0\nevent: progress\ndata: {"step": 1,\ndata: "steps": 4, "loss": 0.9}\n\n'
    b'id: 3-0\nevent: preview\ndata: {"name": "gr\xc3\xbcn.jpg", "url": "/x", "content_type": ""}\n\n'
    b"id: 4-0\nevent: completed\ndata: " + json.dumps(DONE).encode() + b"\n\n"
)
TYPES = ["status", "progress", "preview", "completed"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, len(STREAM)])
def test_events_do_not_depend_on_how_the_bytes_arrive(size: int) -> None:
    feed = EventFeed("http://test")
    events = [
        event for start in range(0, len(STREAM), size) for event in feed.read(STREAM[start : start + size])
    ]
    assert [event.type for event in events] == TYPES
    assert events[1].progress is not None
    assert events[1].progress.loss == 0.9
    assert events[2].preview is not None
    assert events[2].preview.name == "grün.jpg"
    assert feed.ended


def test_a_cut_event_is_asked_for_again() -> None:
    feed = EventFeed("http://test")
    cut = STREAM.index(b'"steps"')
    assert [event.id for event in feed.read(STREAM[:cut])] == ["1-0"]
    assert feed.headers() == {"Last-Event-ID": "1-0"}


class Dropping:
    """Sends the job's events after `Last-Event-ID`, one on each connection, then half of the next."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.app = Starlette(routes=[Route("/v1/jobs/{id}/events", self.events)])

    async def events(self, request: Request) -> Response:
        after = request.headers.get("last-event-id")
        self.asked.append(after)
        blocks = [block + b"\n\n" for block in STREAM.replace(b"\r\n", b"\n").split(b"\n\n") if block]
        numbered = [block for block in blocks if block.startswith(b"id:")]
        start = int(after.partition("-")[0]) if after else 0

        async def body() -> AsyncIterator[bytes]:
            yield b"retry: 10\n\n"
            yield numbered[start]
            if start + 1 < len(numbered):
                yield numbered[start + 1][:20]

        return StreamingResponse(body(), media_type="text/event-stream")


async def collect(client: AsyncClient) -> list[Event]:
    async with client:
        return [event async for event in client.events("job_1")]


async def test_dropped_connections_leave_neither_gap_nor_duplicate(serve: Serve) -> None:
    script = Dropping()
    url = serve(script.app)
    with Client(url) as client:
        assert [event.type for event in client.events("job_1")] == TYPES
    assert [event.type for event in await collect(AsyncClient(url))] == TYPES
    assert script.asked == [None, "1-0", "2-0", "3-0"] * 2


def test_the_last_event_brings_the_whole_job(serve: Serve) -> None:
    with Client(serve(Dropping().app)) as client:
        last = list(client.events("job_1", after="3-0"))[-1]
    assert last.job is not None
    assert last.job.outputs[0].name == "image-0.png"


async def test_an_unknown_job_is_an_error_at_once(serve: Serve) -> None:
    async def missing(request: Request) -> Response:
        return problem(404, "job_missing", "no job has that id")

    url = serve(Starlette(routes=[Route("/v1/jobs/{id}/events", missing)]))
    with pytest.raises(ApiError, match="no job has that id"), Client(url) as client:
        list(client.events("job_1"))
    with pytest.raises(ApiError, match="no job has that id"):
        await collect(AsyncClient(url))


def test_patience_with_a_service_that_went_away_ends() -> None:
    feed = EventFeed("http://test", patience_s=-1)
    with pytest.raises(Unreachable):
        feed.pause_after(None)


def test_an_overloaded_service_is_given_the_time_it_asks_for() -> None:
    feed = EventFeed("http://test")
    overloaded: Any = ApiError(503, "overloaded", "later", retryable=True, retry_after_s=3)
    assert feed.pause_after(overloaded) == 3
