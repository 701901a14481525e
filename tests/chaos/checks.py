"""What must be true of every accepted job, and of Redis and the store, once everything is up again."""

import io
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import redis
from PIL import Image

from jobs.record.priorities import TYPES, queue_names
from jobs.record.record import key
from storage.redis import connect
from tests.chaos.callers import Ticket, wait_until
from tests.chaos.processes import Stage

LONG_AGO_S = 2 * 3600  # older than the janitor asks of files without a record
COLLECT_S = 30.0


def check_all(stage: Stage, tickets: list[Ticket], images: list[list[bytes]], max_attempts: int) -> None:
    """Blame what does not hold.

    Args:
        images: for each template, its images as drawn undisturbed.
    """
    with (
        connect(stage.redis_url, patience_s=5) as connection,
        httpx.Client(base_url=stage.url, timeout=20, trust_env=False) as http,
    ):
        kept: set[str] = set()
        for ticket in tickets:
            for problem in _job_problems(connection, http, ticket, images[ticket.template], max_attempts):
                stage.diary.blame(f"{ticket.id} ({ticket.name}, asked {ticket.asked} times): {problem}")
                tell_of(stage, connection, ticket)
            kept |= _keys_of(connection, ticket)
        _check_list(stage, http, tickets)
        _check_redis(stage, connection)
        _check_store(stage, kept, {ticket.id for ticket in tickets if ticket.id})
        _check_nothing_is_left(stage, connection, http, tickets)


def tell_of(stage: Stage, connection: redis.Redis, ticket: Ticket) -> None:
    """Write all that is known of a job into the diary."""
    say = stage.diary.say
    say(f"  request: {json.dumps(ticket.request)}")
    say(f"  last told: {json.dumps(ticket.final or ticket.last)}")
    if ticket.id is None:
        return
    say(f"  record: {connection.hgetall(key('job', ticket.id))}")
    for event_id, fields in connection.xrange(key("events", ticket.id)):
        if fields["event"] in ("status", "completed"):
            say(f"  event {event_id}: {fields['event']} {fields['data']}")
    for name in (name for job_type in TYPES for name in queue_names(job_type)):
        for queue in (f"rq:queue:{name}", f"rq:queue:{name}:intermediate"):
            say(f"  {queue}: {connection.lrange(queue, 0, -1)}")
    for line in stage.log_lines(ticket.id):
        say(f"  {line}")


def _job_problems(
    connection: redis.Redis, http: httpx.Client, ticket: Ticket, images: list[bytes], max_attempts: int
) -> list[str]:
    if ticket.id is None or ticket.final is None:
        return ["it never ended"]
    answer = http.get(f"/v1/jobs/{ticket.id}")
    if answer.status_code != 200:
        return [f"it is gone: {answer.status_code} {answer.text}"]
    job = answer.json()
    problems = []
    if job != ticket.final:
        problems.append(f"it changed after its end: {ticket.final} and then {job}")
    if job["attempt"] > max_attempts:
        problems.append(f"it had {job['attempt']} attempts of {max_attempts}")
    problems += _end_problems(job, ticket, max_attempts)
    problems += _event_problems(connection, job, ticket)
    outputs = [output for output in job["outputs"] if output["kind"] == "image"]
    names = [output["name"] for output in outputs]
    expected = [f"image-{number}.png" for number in range(len(images))]
    if names != (expected if job["status"] == "succeeded" else []):
        problems.append(f"its outputs are {names}")
    for output, picture in zip(outputs, images, strict=False):
        file = http.get(output["url"])
        if file.status_code != 200:
            problems.append(f"{output['name']}: {file.status_code} {file.text[:200]}")
        elif file.content != picture:
            problems.append(
                f"{output['name']} is not as drawn undisturbed: {_difference(file.content, picture)}"
            )
        else:
            Image.open(io.BytesIO(file.content)).load()
    return problems


def _end_problems(job: dict[str, Any], ticket: Ticket, max_attempts: int) -> list[str]:
    match job["status"]:
        case "succeeded":
            return []
        case "canceled" if ticket.cancel_asked:
            return []
        case "failed" if job["error"]["code"] == "worker_lost" and job["attempt"] == max_attempts:
            return []  # each of its workers died, as the bound of attempts foresees
    return [f"it ended {job['status']}: {job['error']}"]


def _event_problems(connection: redis.Redis, job: dict[str, Any], ticket: Ticket) -> list[str]:
    events = connection.xrange(key("events", job["id"]))
    kinds = [fields["event"] for _, fields in events]
    problems = []
    if kinds.count("completed") != 1 or kinds[-1] != "completed":
        problems.append(f"its events end {kinds[-5:]}, with {kinds.count('completed')} completed")
    if len(kinds) != job["seq"]:
        problems.append(f"seq is {job['seq']} after {len(kinds)} events")
    starts = sum('"running"' in fields["data"] for _, fields in events if fields["event"] == "status")
    if job["status"] == "succeeded" and starts < job["attempt"]:
        problems.append(f"it counts {job['attempt']} attempts and was started {starts} times")
    ids = [event_id for event_id, _ in events]
    if ticket.heard is not None and ticket.heard != [*ids, "end"]:
        problems.append(f"a listener heard {ticket.heard}, and the events are {ids}")
    return problems


def _difference(found: bytes, expected: bytes) -> str:
    try:
        with Image.open(io.BytesIO(found)) as image:
            image.load()
            return f"{len(found)} bytes, an image of {image.size}, not {len(expected)} bytes"
    except OSError as error:
        return f"{len(found)} bytes that are no image ({error}), not {len(expected)} bytes"


def _keys_of(connection: redis.Redis, ticket: Ticket) -> set[str]:
    """Keys of the files that a job's record names."""
    if ticket.id is None:
        return set()
    record = connection.hgetall(key("job", ticket.id))
    files = json.loads(record.get("outputs") or "[]") + json.loads(record.get("inputs") or "[]")
    preview = (json.loads(record.get("progress") or "null") or {}).get("preview")
    return {file["key"] for file in (*files, *([preview] if preview else []))}


def _check_list(stage: Stage, http: httpx.Client, tickets: list[Ticket]) -> None:
    names: Counter[str] = Counter()
    after: dict[str, str] = {}
    while True:
        page = http.get("/v1/jobs", params={"limit": 100, **after}).json()
        names.update(job["metadata"].get("chaos", "undisturbed") for job in page["data"])
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    del names["undisturbed"]
    if names != Counter({ticket.name: 1 for ticket in tickets}):
        stage.diary.blame(f"each request is one job, but the list has {names}")


def _check_redis(stage: Stage, connection: redis.Redis) -> None:
    names = [name for job_type in TYPES for name in queue_names(job_type)]
    lists = [f"rq:queue:{name}{part}" for name in names for part in ("", ":intermediate")]

    def is_empty() -> bool:
        return not any(connection.llen(name) for name in lists)

    if not wait_until(is_empty, COLLECT_S):
        left = {name: connection.lrange(name, 0, -1) for name in lists}
        stage.diary.blame(f"RQ's lists are not empty: {left}")
    for name in ("queued", "running"):
        if left := connection.zrange(key(name), 0, -1):
            stage.diary.blame(f"nothing waits or runs, but {name} has {left}")


def _check_store(stage: Stage, kept: set[str], ids: set[str]) -> None:
    files = _files(stage.store)
    for name in kept - files:
        stage.diary.blame(f"a record names {name}, and there is no such file")
    orphans = {path.name for path in stage.store.iterdir()} - ids - _undisturbed(stage)

    def left() -> set[str]:
        return {name for name in _files(stage.store) - kept if name.partition("/")[0] in ids}

    if not wait_until(lambda: not left(), COLLECT_S):
        stage.diary.blame(f"no record names these files, and they are not collected: {left()}")
    stage.diary.counts["folders without a record, before collection"] = len(orphans)
    for name in orphans:
        os.utime(stage.store / name, (time.time() - LONG_AGO_S,) * 2)
    stage.terminate("janitor")  # looks for orphans as it starts

    def are_gone() -> bool:
        return not any((stage.store / name).exists() for name in orphans)

    if not wait_until(are_gone, COLLECT_S):
        stage.diary.blame(f"these folders have no record and are not collected: {orphans}")


def _undisturbed(stage: Stage) -> set[str]:
    with connect(stage.redis_url, patience_s=5) as connection:
        return {path.name for path in stage.store.iterdir() if connection.exists(key("job", path.name))}


def _check_nothing_is_left(
    stage: Stage, connection: redis.Redis, http: httpx.Client, tickets: list[Ticket]
) -> None:
    for ticket in tickets:
        answer = http.delete(f"/v1/jobs/{ticket.id}")
        if answer.status_code != 204:
            stage.diary.blame(f"deleting {ticket.id} was answered {answer.status_code}: {answer.text[:200]}")
    ids = {ticket.id for ticket in tickets}
    files = {name for name in _files(stage.store) if name.partition("/")[0] in ids}
    if files:
        stage.diary.blame(f"deleted jobs left files: {sorted(files)}")
    names = {name for name in connection.scan_iter("*", count=1000) if any(str(each) in name for each in ids)}
    if names:
        stage.diary.blame(f"deleted jobs left keys: {sorted(names)}")


def _files(store: Path) -> set[str]:
    return {path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file()}
