"""Following a job: its events to a client, resumable anywhere, and waiting for its end."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import redis
import structlog

from app.dependencies import QueueUnavailable, Resources
from app.http.errors import MalformedHeader
from jobs.job_response import view, view_frame, view_output, view_progress
from jobs.record.events import EVENT_ID, Event, follow
from jobs.record.record import Frame, Job, JobMissing, Output, key, progress_from

log = structlog.stdlib.get_logger(__name__)

PING_S = 15.0
LOOK_S = 5.0  # how often the record is looked at while no events come
STALL_S = 5.0  # Redis answers each second, if only that nothing happened
START = "0-0"  # before every event


def check_event_id(text: str) -> str:
    """The id itself.

    Raises:
        MalformedHeader: it can be no event's.
    """
    if not EVENT_ID.fullmatch(text):
        raise MalformedHeader("Last-Event-ID, or after, is the id of an event, such as 1760000000000-0")
    return text


async def has_seen_the_end(job: Job, after: str, resources: Resources) -> bool:
    """Whether a client that has the event `after` has every event there will ever be."""
    return job.status.is_final and await _rest_of(job, after, resources) == "nothing"


async def stream(job: Job, after: str, caller: str, resources: Resources) -> AsyncGenerator[str]:
    """A job's events after one of them, as server-sent events, to `completed`."""
    with resources.streams.open(caller):
        yield "retry: 1000\n\n"
        try:
            async with aclosing(_messages(job, after, resources)) as messages:
                async for message in messages:
                    yield message
        except JobMissing:
            return  # deleted meanwhile
        except (redis.RedisError, TimeoutError, QueueUnavailable):
            # the client resumes after the last event that it has
            log.warning("event stream broke off", job_id=job.id)


async def wait_for_end(job_id: str, seconds: float, resources: Resources) -> None:
    """Return when the job is final, when the time is up, or when the process is to end."""
    ends = time.monotonic() + seconds
    try:
        async with asyncio.timeout(seconds), aclosing(follow(resources.events, job_id)) as events:
            async for event in events:
                # Python 3.11's wait_for, as Redis connects, may swallow a timeout (python/cpython#86296)
                is_over = resources.stopping.is_set() or time.monotonic() >= ends
                if is_over or (event and event.event == "completed"):
                    return
    except TimeoutError:
        return
    except redis.RedisError as error:
        raise QueueUnavailable("the job queue cannot be reached") from error


async def _messages(job: Job, after: str, resources: Resources) -> AsyncGenerator[str]:
    began = pinged = time.monotonic()
    looked = 0.0
    async with aclosing(follow(resources.events, job.id, after)) as events:
        while not resources.stopping.is_set() and time.monotonic() - began < resources.settings.max_stream_s:
            async with asyncio.timeout(STALL_S):
                event = await anext(events)
            now = time.monotonic()
            if event is not None:
                after, pinged = event.id, now
                yield _message(event.event, event.id, await _data(event, job, resources))
                if event.event == "completed":
                    return
                continue
            if now - looked >= LOOK_S:
                looked = now
                job = await resources.ask(resources.queue.get, job.id, job.tenant)
                rest = await _rest_of(job, after, resources)
                if rest == "record":
                    yield _message("completed", f"{_finished_ms(job)}-0", view(job).model_dump(mode="json"))
                if rest != "events":
                    return
            if now - pinged >= PING_S:
                pinged = now
                yield ": ping\n\n"


async def _rest_of(job: Job, after: str, resources: Resources) -> str:
    """Where the rest is: in `events`, in the `record` (they are forgotten), or there is `nothing`."""
    if not job.status.is_final:
        return "events"
    try:
        last = await resources.events.xrevrange(key("events", job.id), count=1)
    except redis.RedisError as error:
        raise QueueUnavailable("the job queue cannot be reached") from error
    if last:
        return "events" if _order(after) < _order(last[0][0]) else "nothing"
    return "record" if _order(after)[0] < _finished_ms(job) else "nothing"


async def _data(event: Event, job: Job, resources: Resources) -> Any:
    fields = json.loads(event.data)
    match event.event:
        case "completed":
            ended = await resources.ask(resources.queue.get, job.id, job.tenant)
            return view(ended).model_dump(mode="json")
        case "progress":
            return view_progress(job.id, progress_from(fields)).model_dump(mode="json")
        case "preview":
            return view_output(job.id, Output(**fields)).model_dump(mode="json")
        case "frame":
            return view_frame(job.id, Frame(**fields)).model_dump(mode="json")
        case _:
            return fields


def _message(event: str, event_id: str, data: Any) -> str:
    return f"id: {event_id}\nevent: {event}\ndata: {json.dumps(data)}\n\n"


def _order(event_id: str) -> tuple[int, int]:
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number)


def _finished_ms(job: Job) -> int:
    return round(job.finished_at.timestamp() * 1000) if job.finished_at else 0
