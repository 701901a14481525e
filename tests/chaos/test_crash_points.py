"""A process that dies between any two steps of a job's life loses nothing: the job still ends, once."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from jobs.record.record import key
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = pytest.mark.timeout(180)

REQUEST: dict[str, Any] = {
    "prompt": "a fox",
    "generator": "gradient",
    "width": 16,
    "height": 16,
    "steps": 60,
    "options": {"delay_s": 0.02},
    "seed": 7,
}
END_S = 40  # a lease, the janitor's patience with half-done things, and a busy machine


@pytest.fixture(scope="module")
def service(redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The API and the janitor; no worker."""
    with redis.Redis.from_url(redis_process.url) as client:
        client.flushall()
    started = Service(redis_process, tmp_path_factory.mktemp("service"), CLIPCANVAS_LEASE_S="2")
    started.start("app")
    started.start("workers", "janitor")
    started.wait_until(started.alive, 60)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def image(service: Service) -> bytes:
    """What the request gives when nobody dies."""
    worker = service.worker()
    with service.client() as client:
        job = client.draw(timeout_s=60, **REQUEST)
        worker.kill()
        return client.output(job.id, "image-0.png")


def check_end(service: Service, job_id: str, image: bytes, attempts: int) -> None:
    """A healthy worker ends the job, and it looks as if nothing had happened."""
    worker = service.worker()
    try:
        job = service.wait_for(job_id, lambda job: job.is_final, END_S)
    finally:
        worker.kill()
    assert (job.status, job.attempt) == ("succeeded", attempts)
    with service.client() as client:
        assert client.output(job_id, "image-0.png") == image
    with redis.Redis.from_url(service.redis.url, decode_responses=True) as connection:
        kinds = [fields["event"] for _, fields in connection.xrange(key("events", job_id))]
    assert kinds.count("completed") == 1
    assert kinds[-1] == "completed"


@pytest.mark.parametrize(
    ("target", "when", "count", "attempts"),
    [
        pytest.param(
            "workers.runner.rq_worker:WarmWorker.prepare_job_execution", "before", 1, 1, id="popped"
        ),
        pytest.param("jobs.record.lease:Lease.start", "before", 1, 1, id="about to start"),
        pytest.param("jobs.record.lease:Lease.start", "after", 1, 2, id="started"),
        pytest.param("os:replace", "before", 2, 2, id="file written, not named"),
        pytest.param("storage.blobs.file:FileStore.save", "after", 2, 2, id="checkpoint kept, not told"),
        pytest.param("jobs.record.lease:Lease.finish", "before", 1, 2, id="drawn, not told"),
        pytest.param("jobs.record.lease:Lease.finish", "after", 1, 1, id="told"),
    ],
)
def test_a_worker_may_die_there(
    service: Service, image: bytes, target: str, when: str, count: int, attempts: int
) -> None:
    doomed = service.start(
        "tests.chaos.doomed", target, when, str(count), "workers", CLIPCANVAS_GENERATORS='["gradient"]'
    )
    with service.client() as client:
        job = client.create_job(**REQUEST)
    assert doomed.wait(60) == -signal.SIGKILL
    check_end(service, job.id, image, attempts)


@pytest.mark.parametrize(
    ("target", "when"),
    [
        pytest.param("jobs.record.lease:Lease.hand_back", "before", id="before it hands back"),
        pytest.param("jobs.record.lease:Lease.hand_back", "after", id="handed back, RQ not told"),
    ],
)
def test_a_worker_may_be_killed_while_it_stops(
    service: Service, image: bytes, target: str, when: str
) -> None:
    doomed = service.start(
        "tests.chaos.doomed", target, when, "1", "workers", CLIPCANVAS_GENERATORS='["gradient"]'
    )
    with service.client() as client:
        job = client.create_job(**REQUEST)
    service.wait_for(job.id, lambda job: bool(job.progress and job.progress.step > 5))
    doomed.terminate()
    assert doomed.wait(60) == -signal.SIGKILL
    check_end(service, job.id, image, 2 if when == "before" else 1)


@pytest.mark.parametrize(
    ("target", "when"),
    [
        pytest.param("jobs.queue:JobQueue.create", "before", id="nothing is written"),
        pytest.param("jobs.queue:JobQueue.dispatch", "before", id="written, RQ not told"),
        pytest.param("jobs.queue:JobQueue.create", "after", id="RQ told, the client not"),
    ],
)
def test_the_api_may_die_in_a_create(
    service: Service, image: bytes, target: str, when: str, tmp_path: Path
) -> None:
    """The client asks another replica with the same Idempotency-Key, and has one job."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    doomed = service.start("tests.chaos.doomed", target, when, "1", "app", CLIPCANVAS_PORT=str(port))
    service.wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/livez").is_success, 60)
    headers = {"Idempotency-Key": tmp_path.name}
    with pytest.raises(httpx.TransportError):
        httpx.post(f"http://127.0.0.1:{port}/v1/jobs", json=REQUEST, headers=headers, timeout=30)
    assert doomed.wait(60) == -signal.SIGKILL
    before = {job["id"] for job in _list(service)}
    answer = httpx.post(f"{service.url}/v1/jobs", json=REQUEST, headers=headers, timeout=30)
    job_id = answer.json()["id"]
    assert answer.status_code == 202
    assert {job["id"] for job in _list(service)} == before | {job_id}
    assert (job_id in before) == (target.endswith("dispatch") or when == "after")
    check_end(service, job_id, image, 1)


def _list(service: Service) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = httpx.get(f"{service.url}/v1/jobs", params={"limit": 100}).json()["data"]
    return jobs
