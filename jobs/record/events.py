"""The events of a job as they come: a reader that resumes anywhere, on any replica."""

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import redis.asyncio

from jobs.record.record import key

EVENT_ID = re.compile(r"\d{1,20}-\d{1,20}")


@dataclass(frozen=True)
class Event:
    """One change of a job."""

    id: str  # the stream's
    event: str  # status | progress | preview | frame | completed
    data: str  # JSON; of `completed` it is {}: read the job


async def follow(
    connection: redis.asyncio.Redis, job_id: str, after: str = "0-0"
) -> AsyncGenerator[Event | None]:
    """A job's events after the one of that id, to `completed`; None each second in which nothing happened.

    The stream is gone an hour after the job's end: a reader sees None only, and asks for the record.

    Raises:
        ValueError: `after` is not the id of an event.
    """
    if not EVENT_ID.fullmatch(after):
        raise ValueError(f"not the id of an event: {after!r}")
    while True:
        answer = await connection.xread({key("events", job_id): after}, block=1000, count=100)
        if not answer:
            yield None
            continue
        for event_id, fields in answer[0][1]:
            after = event_id
            yield Event(event_id, fields["event"], fields["data"])
            if fields["event"] == "completed":
                return
