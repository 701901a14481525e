"""Faults between calls: lost replies, races, steps that hang, slow callers, clocks and versions apart."""

import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from jobs.queue import JobQueue, NewJob, new_id
from jobs.record.lease import Lease, LeaseLost
from jobs.record.record import Progress, Status, call, key
from models.requests.request import GenerationRequest, Prompt
from storage.blobs import open_store
from storage.redis import connect
from tests.support.cutting_proxy import CuttingProxy
from tests.support.live_api import StartApi
from tests.support.redis_server import RedisServer
from tests.support.service import LOADED, Service
from tests.support.worker import Generates, Worker
from workers.janitor import Janitor
from workers.settings import WorkerSettings

REQUEST = GenerationRequest(
    generator="gradient",
    prompts=(Prompt(text="a fox"),),
    width=16,
    height=16,
    steps=3,
    seed=1,
    options={"delay_s": 0.0},
)
SHIFTED = """
import time
now, now_ns = time.time, time.time_ns
time.time = lambda: now() + {shift_s}
time.time_ns = lambda: now_ns() + {shift_s} * 10**9
"""


@pytest.fixture
def settings(worker_settings: Callable[..., WorkerSettings]) -> WorkerSettings:
    return worker_settings(lease_s=2)


@pytest.fixture
def connection(settings: WorkerSettings) -> Iterator[redis.Redis]:
    with connect(settings.redis_url, patience_s=1) as opened:
        yield opened


def create(queue: JobQueue, request: GenerationRequest = REQUEST, **fields: Any) -> str:
    new = NewJob(id=new_id(), request=request, **fields)
    assert queue.create(new) is None
    return new.id


def events(connection: redis.Redis, job_id: str) -> list[str]:
    """What was told of a job, in order; of its status, which."""
    told = [fields for _, fields in connection.xrange(key("events", job_id))]
    return [json.loads(each["data"]).get("status") or each["event"] for each in told]


@pytest.mark.parametrize("function", ["create", "next", "start", "report", "hand_back", "finish"])
def test_a_reply_that_is_lost_changes_nothing(
    redis_server: RedisServer, connection: redis.Redis, settings: WorkerSettings, function: str
) -> None:
    """RPUSH is RQ's own."""
    call(connection, "next", first_rank=0)  # the server knows the script from now on
    proxy = CuttingProxy(redis_server.socket)
    far_settings = settings.model_copy(update={"redis_url": proxy.url})
    queue, far = JobQueue(far_settings), connect(proxy.url, patience_s=5)
    try:
        proxy.lose_reply_to(function)
        job_id = create(queue)
        lease = Lease.start_next(far, "w", 60)
        assert lease
        lease.report(progress=Progress(1, 3))
        lease.hand_back()
        lease = Lease.start_next(far, "w", 60)
        assert lease
        assert (lease.job_id, lease.attempt) == (job_id, 1)
        lease.finish(Status.SUCCEEDED)
        assert proxy.replies_lost == 1
        told = events(connection, job_id)
        progress = told.count("progress")
        assert progress == 1 or (progress == 2 and function == "report"), "it may be told twice"
        told = [event for event in told if event != "progress"]
        assert told == ["queued", "running", "queued", "running", "completed"]
        assert len(queue.find("")[0]) == 1
    finally:
        far.close()
        queue.close()
        proxy.close()


def test_a_reply_to_a_cancel_that_is_lost_changes_nothing(
    redis_server: RedisServer, connection: redis.Redis, settings: WorkerSettings
) -> None:
    call(connection, "next", first_rank=0)
    proxy = CuttingProxy(redis_server.socket)
    queue = JobQueue(settings.model_copy(update={"redis_url": proxy.url}))
    try:
        job_id = create(queue)
        proxy.lose_reply_to("cancel")
        assert queue.cancel(job_id, "") == "canceled"
        assert (proxy.replies_lost, events(connection, job_id)) == (1, ["queued", "completed"])
    finally:
        queue.close()
        proxy.close()


def test_a_cancel_at_the_last_step_and_the_end_agree_on_one(
    queue: JobQueue, settings: WorkerSettings, connection: redis.Redis
) -> None:
    at_last_step = threading.Event()
    worker = Worker(settings, Generates(lambda step: at_last_step.set() if step == REQUEST.steps else None))
    dice = random.Random(7)

    def cancel(job_id: str, pause_s: float) -> str:
        assert at_last_step.wait(30)
        time.sleep(pause_s)
        return queue.cancel(job_id, "")

    with ThreadPoolExecutor(1) as pool:
        for _ in range(200):
            at_last_step.clear()
            job_id = create(queue)
            answer = pool.submit(cancel, job_id, dice.uniform(0, 0.006))
            worker.attempts.run_job(job_id)
            assert answer.result(30) in ("requested", "succeeded")
            job = queue.get(job_id)
            assert job.status in (Status.SUCCEEDED, Status.CANCELED)
            kinds = [output.kind for output in job.outputs]
            assert kinds == (["image", "sidecar"] if job.status == Status.SUCCEEDED else [])
            told = events(connection, job_id)
            assert (told.count("completed"), told[-1]) == (1, "completed")


def test_a_cancel_a_start_and_a_lost_lease_at_once_leave_one_end(
    queue: JobQueue, connection: redis.Redis, settings: WorkerSettings
) -> None:
    with ThreadPoolExecutor(4) as pool:
        for _ in range(100):
            job_id = create(queue)
            first = Lease.start(connection, job_id, "first", 0.001)
            assert isinstance(first, Lease)
            time.sleep(0.002)
            together = threading.Barrier(4)

            def at_once(act: Any, *given: Any, together: threading.Barrier = together) -> Any:
                together.wait(30)
                try:
                    return act(*given)
                except LeaseLost:
                    return "lost"

            ended, _, canceled, second = (
                pool.submit(at_once, *each)
                for each in (
                    (first.finish, Status.SUCCEEDED),
                    (call, connection, "recover_lost"),
                    (queue.cancel, job_id, ""),
                    (Lease.start, connection, job_id, "second", 60),
                )
            )
            canceled.result(30)
            late = second.result(30)
            if isinstance(late, Lease):
                assert ended.result(30) == "lost"
                late.finish(Status.SUCCEEDED)
            status = queue.get(job_id).status
            if status == Status.QUEUED:  # the second came before the first lease was taken back
                assert ended.result(30) == "lost"
                last = Lease.start(connection, job_id, "last", 60)
                assert isinstance(last, Lease)
                last.finish(Status.SUCCEEDED)
            assert queue.get(job_id).status.is_final
            assert events(connection, job_id).count("completed") == 1


HANGS = """
import re, time
import workers.runner.attempt
from tests.support.worker import Generates, Worker
from workers.settings import WorkerSettings

workers.runner.attempt.HARD_GRACE_S = 1

def hang(step):
    if step == 2:
        {how}

Worker(WorkerSettings(), Generates(hang)).work()
"""


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("time.sleep(600)", id="in C"),
        pytest.param("re.match(r'(a+)+$', 'a' * 60 + 'b')", id="in C with the GIL held"),
    ],
)
def test_a_step_that_hangs_ends_its_worker_and_the_job(
    queue: JobQueue, settings: WorkerSettings, how: str
) -> None:
    job_id = create(queue, run_timeout_s=1)
    environment = {
        **os.environ,
        "CLIPCANVAS_REDIS_URL": settings.redis_url,
        "CLIPCANVAS_STORE": settings.store,
        "CLIPCANVAS_LEASE_S": "1",
    }
    hung = subprocess.run(
        [sys.executable, "-c", HANGS.format(how=how)], env=environment, stderr=subprocess.PIPE, timeout=50
    )
    assert hung.returncode == 1
    assert b"Timeout" in hung.stderr, "where it hung is in the log"
    janitor = Janitor(settings, open_store(settings.store), threading.Event())
    deadline_s = time.monotonic() + 20
    while not queue.get(job_id).status.is_final:
        janitor.sweep()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    error = queue.get(job_id).error
    assert error
    assert error.code == "timeout"


def test_a_flood_of_one_caller_delays_another_by_one_job(
    settings: WorkerSettings, connection: redis.Redis
) -> None:
    flooded = JobQueue(settings.model_copy(update={"max_queued": 2000, "max_queued_per_key": 1000}))
    for _ in range(1000):
        create(flooded, tenant="flood")
    worker_1, worker_2 = (Lease.start_next(connection, name, 60) for name in ("w1", "w2"))
    assert worker_1
    assert worker_2
    late = create(flooded, tenant="other")
    assert flooded.get(late).queue_position == 0
    worker_1.finish(Status.SUCCEEDED)
    served = Lease.start_next(connection, "w1", 60)
    assert served
    assert served.job_id == late
    flooded.close()


def test_callers_that_never_end_their_headers_harm_nobody(start_api: StartApi) -> None:
    api = start_api()
    port = httpx.URL(api.url).port
    assert port
    with ExitStack() as stack:
        for _ in range(300):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            slow.sendall(b"POST /v1/jobs HT")
        body = {"prompt": "a fox", "generator": "gradient", "steps": 2}
        assert api.http.post("/v1/jobs", json=body).status_code == 202


def test_clocks_may_differ_by_hours(redis_server: RedisServer, tmp_path: Path) -> None:
    """Leases and deadlines go by the clock of Redis alone."""
    clocks = {}
    for name, shift_s in (("ahead", 7200), ("behind", -7200)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sitecustomize.py").write_text(SHIFTED.format(shift_s=shift_s))
        clocks[name] = {"PYTHONPATH": str(tmp_path / name)}
    service = Service(redis_server, tmp_path, **LOADED, CLIPCANVAS_WEIGHTS=str(tmp_path))
    try:
        service.start("app", **clocks["ahead"])
        service.start("workers", "janitor", **clocks["ahead"])
        service.start("workers", CLIPCANVAS_GENERATORS='["gradient"]', **clocks["behind"])
        service.wait_until(service.alive, 50)
        service.wait_until(lambda: len(httpx.get(f"{service.url}/v1/queue").json()["workers"]) == 1, 50)
        with service.client() as client:
            job = client.create_job(
                "a fox",
                generator="gradient",
                width=16,
                height=16,
                steps=200,  # longer than a lease
                options={"delay_s": 0.02},
                start_timeout_s=60,
                run_timeout_s=60,
            )
            ended = client.wait(job.id, timeout_s=50)
            assert (ended.status, ended.attempt) == ("succeeded", 1)
            assert client.output(job.id, "image-0.png")
        with redis.Redis.from_url(redis_server.url) as connection:
            skew_s = int(connection.hget(key("job", job.id), "created_ms")) / 1000 - time.time()
        assert abs(skew_s - 7200) < 600, "the clock was off indeed"
    finally:
        service.stop()


def test_a_job_of_a_generator_that_this_worker_does_not_know_fails_with_its_name(
    queue: JobQueue, settings: WorkerSettings
) -> None:
    """As in a rolling deploy, when the API is newer than the worker."""
    unknown, known = create(queue, REQUEST.model_copy(update={"generator": "newer"})), create(queue)
    Worker(settings).work()
    job = queue.get(unknown)
    assert job.error
    assert (job.status, job.error.code) == (Status.FAILED, "generation_failed")
    assert re.search(r"\bnewer\b", job.error.detail)
    assert queue.get(known).status == Status.SUCCEEDED


def test_fields_that_only_a_newer_version_knows_are_left_alone(
    queue: JobQueue, settings: WorkerSettings, connection: redis.Redis
) -> None:
    job_id = create(queue)
    record = key("job", job_id)
    connection.hset(record, "newer", "x")
    for field in ("request", "outputs"):
        known = json.loads(connection.hget(record, field) or "null")
        for part in known if field == "outputs" else [known]:
            part["newer"] = "x"
        connection.hset(record, field, json.dumps(known))
        if field == "request":
            Worker(settings).work()
    assert queue.get(job_id).status == Status.SUCCEEDED
    assert [output.kind for output in queue.get(job_id).outputs] == ["image", "sidecar"]
    assert connection.hget(record, "newer") == "x"
