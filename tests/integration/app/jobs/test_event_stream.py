"""Event streams: everything once, in order, resumable anywhere, and ended in order."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from jobs.record.lease import Lease
from jobs.record.record import Output, Progress, Status
from tests.support.live_api import LiveApi, StartApi
from tests.support.redis_server import RedisServer

JOB = {"prompt": "a fox", "generator": "gradient", "width": 32, "height": 32, "steps": 4}


@pytest.fixture
def connection(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with closing(redis.Redis.from_url(redis_server.url, decode_responses=True)) as connection:
        yield connection


def create(api: LiveApi) -> str:
    return str(api.http.post("/v1/jobs", json=JOB).json()["id"])


def run(connection: redis.Redis, job_id: str, steps: int = 4, pause_s: float = 0.0) -> None:
    """What a worker would tell of a whole job."""
    lease = Lease.start(connection, job_id, "w", 30)
    assert isinstance(lease, Lease)
    preview = Output("preview-0.jpg", f"{job_id}/a/preview-0.jpg", "image/jpeg", 32, 32)
    for step in range(1, steps + 1):
        time.sleep(pause_s)
        lease.report(progress=Progress(step, steps, preview=preview), previewed=step == 2)
    lease.finish(Status.SUCCEEDED, outputs=[Output("image-0.png", f"{job_id}/a/image-0.png", "image/png")])


def read(
    api: LiveApi, job_id: str, after: str | None = None, by_query: bool = False, limit: int = 1000
) -> list[dict[str, Any]]:
    """The events of one connection."""
    headers = {"Last-Event-ID": after} if after and not by_query else {}
    query = {"after": after} if after and by_query else {}
    found: list[dict[str, Any]] = []
    with api.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers, params=query) as answer:
        if answer.status_code == 204:
            return []
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
                continue
            if "data" in fields:
                found.append({**fields, "data": json.loads(fields["data"])})
                if len(found) == limit:
                    break
            fields = {}
    return found


def test_a_stream_tells_all_of_a_job_and_ends(api: LiveApi, connection: redis.Redis) -> None:
    job_id = create(api)
    thread = threading.Thread(target=run, args=(connection, job_id, 4, 0.05))
    thread.start()
    events = read(api, job_id)
    thread.join()
    kinds = [event["event"] for event in events]
    progress = ["progress"] * 2
    assert kinds == ["status", "status", *progress, "preview", *progress, "completed"]
    assert [event["data"]["status"] for event in events[:2]] == ["queued", "running"]
    fractions = [event["data"]["fraction"] for event in events if event["event"] == "progress"]
    assert fractions == [0.25, 0.5, 0.75, 1.0]
    assert events[4]["data"]["url"] == f"/v1/jobs/{job_id}/outputs/preview-0.jpg"
    assert events[-1]["data"] == api.http.get(f"/v1/jobs/{job_id}").json()
    assert f"{job_id}/a/" not in json.dumps(events), "keys of the store stay inside"


@pytest.mark.parametrize("by_query", [False, True])
def test_it_resumes_without_gap_or_duplicate_on_any_replica(
    start_api: StartApi, connection: redis.Redis, by_query: bool
) -> None:
    replicas = [start_api(), start_api()]
    job_id = create(replicas[0])
    run(connection, job_id)
    whole = read(replicas[0], job_id)
    pieces: list[dict[str, Any]] = []
    for turn in range(10):
        after = pieces[-1]["id"] if pieces else None
        piece = read(replicas[turn % 2], job_id, after, by_query, limit=3)
        if not piece:
            break
        pieces += piece
    assert pieces == whole


def test_who_has_everything_is_told_not_to_come_back(api: LiveApi, connection: redis.Redis) -> None:
    job_id = create(api)
    run(connection, job_id)
    last = read(api, job_id)[-1]["id"]
    answer = api.http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.content) == (204, b"")


def test_when_the_events_are_forgotten_the_end_is_still_told_once(
    api: LiveApi, connection: redis.Redis
) -> None:
    job_id = create(api)
    first = read(api, job_id, limit=1)[0]["id"]
    time.sleep(0.01)
    run(connection, job_id)
    connection.delete(f"clipcanvas:events:{job_id}")
    events = read(api, job_id, after=first)
    assert [event["event"] for event in events] == ["completed"]
    assert events[0]["data"]["status"] == "succeeded"
    assert read(api, job_id, after=events[0]["id"]) == []


@pytest.mark.parametrize("after", ["x", "1-2-3", "-", "$", "9" * 30 + "-0", "0"])
def test_what_is_no_event_s_id_is_refused(api: LiveApi, after: str) -> None:
    answer = api.http.get(f"/v1/jobs/{create(api)}/events", headers={"Last-Event-ID": after})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_header")


def test_there_are_so_many_streams_and_no_more(start_api: StartApi) -> None:
    api = start_api(max_streams_per_caller=2)
    job_id = create(api)
    path = f"/v1/jobs/{job_id}/events"
    with api.http.stream("GET", path) as first, api.http.stream("GET", path) as second:
        assert [first.status_code, second.status_code] == [200, 200]
        lines = [first.iter_lines(), second.iter_lines()]
        assert [next(line) for line in lines] == ["retry: 1000"] * 2
        third = api.http.get(path)
        assert (third.status_code, third.json()["code"]) == (429, "too_many_streams")
        assert int(third.headers["retry-after"]) > 0
        assert "clipcanvas_event_streams 2.0" in api.http.get("/metrics").text
    api.wait_until(lambda: "clipcanvas_event_streams 0.0" in api.http.get("/metrics").text)


def test_streams_and_waits_end_when_the_process_is_to_stop(api: LiveApi) -> None:
    job_id = create(api)
    threading.Timer(0.5, api.stopping.set).start()
    began = time.monotonic()
    events = read(api, job_id)
    assert [event["event"] for event in events] == ["status"]
    assert time.monotonic() - began < 5
    answer = api.http.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=30"})
    assert answer.json()["status"] == "queued"
    assert time.monotonic() - began < 8
    assert api.http.get("/readyz").json()["parts"]["api"] == "stopping"


def test_a_job_deleted_meanwhile_ends_its_stream(
    api: LiveApi, connection: redis.Redis, tmp_path: Path
) -> None:
    job_id = create(api)
    keys = [f"clipcanvas:job:{job_id}", f"clipcanvas:events:{job_id}"]
    threading.Timer(0.3, connection.delete, keys).start()
    with httpx.Client(base_url=api.url, timeout=20) as http:
        assert "completed" not in http.get(f"/v1/jobs/{job_id}/events").text
