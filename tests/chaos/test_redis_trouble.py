"""Redis goes away or refuses writes for longer than a lease, and no worker dies and no job runs twice."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = pytest.mark.timeout(180)

OUTAGE_S = 8  # the lease is 3 s
REQUEST: dict[str, Any] = {"prompt": "a fox", "generator": "gradient", "width": 16, "height": 16, "seed": 7}
DURING: dict[str, Any] = {
    **REQUEST,
    "steps": 200,
    "options": {"delay_s": 0.02},
}  # ends while Redis is in trouble
AFTER: dict[str, Any] = {**REQUEST, "steps": 700, "options": {"delay_s": 0.02}}  # ends when it is well again


@pytest.fixture
def service(redis_server: RedisServer, tmp_path: Path) -> Iterator[Service]:
    """The API, three idle workers, and a janitor that is quicker than they are when Redis is back."""
    started = Service(redis_server, tmp_path, CLIPCANVAS_SWEEP_EVERY_S="0.05")
    started.start("app")
    started.start("workers", "janitor")
    for _ in range(3):
        started.worker()
    try:
        started.wait_until(lambda: states(started) == ["idle"] * 3, 60)
        yield started
    finally:
        started.stop()


def states(service: Service) -> list[str]:
    workers = httpx.get(f"{service.url}/v1/queue").json()["workers"]
    return [worker["state"] for worker in workers]


def start_jobs(service: Service) -> list[str]:
    """One of the workers stays idle."""
    with service.client() as client:
        ids = [client.create_job(**request).id for request in (DURING, AFTER)]
    for job_id in ids:
        service.wait_for(job_id, lambda job: bool(job.progress and job.progress.step > 5))
    return ids


def check_that_nothing_ran_twice(service: Service, ids: list[str]) -> None:
    jobs = [service.wait_for(job_id, lambda job: job.is_final, 60) for job_id in ids]
    assert [process.poll() for process in service.processes] == [None] * 5, "no process ends of it"
    assert [(job.status, job.attempt) for job in jobs] == [("succeeded", 1)] * 2


def test_redis_may_be_gone_for_longer_than_a_lease(service: Service) -> None:
    ids = start_jobs(service)
    service.redis.stop()
    time.sleep(OUTAGE_S)
    service.redis.start()
    check_that_nothing_ran_twice(service, ids)


@pytest.mark.parametrize(("setting", "value"), [("maxmemory", "1mb"), ("min-replicas-to-write", "1")])
def test_redis_may_refuse_writes_for_longer_than_a_lease(service: Service, setting: str, value: str) -> None:
    """As it does when it is full, read-only, or cannot write its file."""
    ids = start_jobs(service)
    with redis.Redis.from_url(service.redis.url) as connection:
        connection.config_set(setting, value)
        try:
            began_s = time.monotonic()
            refused = httpx.post(f"{service.url}/v1/jobs", json=REQUEST, timeout=20)
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            assert refused.headers["content-type"] == "application/problem+json"
            assert httpx.get(f"{service.url}/v1/jobs/{ids[0]}").status_code == 200, "reading goes on"
            time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - began_s)))
        finally:
            connection.config_set(setting, "0")
    check_that_nothing_ran_twice(service, ids)
    listed = httpx.get(f"{service.url}/v1/jobs").json()["data"]
    assert {job["id"] for job in listed} == set(ids), "nothing half-made is left"
