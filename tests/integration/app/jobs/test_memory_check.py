"""A job that no worker has room for is refused with a size that would fit; workers plan by what they have."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobs.queue import JobQueue
from jobs.record.record import Status, call
from models.catalog.memory import GIB
from models.requests.generator import Drawing, Step
from models.runtime import machine
from storage.redis import connect
from tests.support.live_api import LiveApi, StartApi
from tests.support.redis_server import RedisServer
from tests.support.worker import Generates, Worker, create
from workers.settings import WorkerSettings

LARGE: dict[str, Any] = {
    "prompt": "a fox",
    "generator": "vqgan_clip",
    "width": 1536,
    "height": 1152,
    "steps": 1,
    "options": {"start": "random"},
}


@pytest.fixture
def settings(worker_settings: Callable[..., WorkerSettings]) -> WorkerSettings:
    return worker_settings(lease_s=5)


def show_worker(redis: RedisServer, name: str, **details: Any) -> None:
    """Say what a worker's pulse says, for a minute."""
    connection = connect(redis.url, patience_s=1)
    shown = json.dumps({"state": "idle", "since": 0, **details})
    call(connection, "worker", name=name, details=shown, ttl_ms=60_000)


def refusal(api: LiveApi, body: dict[str, Any]) -> str:
    """The detail of the one fault."""
    answer = api.http.post("/v1/jobs", json=body)
    assert answer.status_code == 422, answer.text
    (fault,) = answer.json()["errors"]
    assert (fault["pointer"], fault["code"]) == ("#/width", "too_large_for_memory")
    return str(fault["detail"])


def test_what_is_too_large_is_refused_with_a_size_that_is_then_accepted(start_api: StartApi) -> None:
    api = start_api(device_memory="3GiB").ready()
    detail = refusal(api, LARGE)
    match = re.fullmatch(
        r"1536x1152 needs about \d\.\d GiB; the largest worker has 3\.0 GiB; (\d+)x(\d+) would fit", detail
    )
    assert match, detail
    width, height = map(int, match.groups())
    assert width / height == pytest.approx(4 / 3, rel=0.05)
    answer = api.http.post("/v1/jobs", json={**LARGE, "width": width, "height": height})
    assert answer.status_code == 202, answer.text
    assert "would fit" in refusal(api, {**LARGE, "width": width + 8, "height": height + 8})


def test_where_no_size_fits_that_is_said(start_api: StartApi) -> None:
    assert "no size would fit" in refusal(start_api(device_memory="300MiB").ready(), LARGE)


def test_the_largest_of_the_workers_that_are_there_counts(
    start_api: StartApi, redis_server: RedisServer
) -> None:
    api = start_api().ready()
    assert api.http.post("/v1/jobs", json=LARGE).status_code == 202, "nobody knows better"
    show_worker(redis_server, "still-loading")
    assert api.http.post("/v1/jobs", json=LARGE).status_code == 202, "still nobody does"
    show_worker(redis_server, "small", memory=2 * GIB)
    assert "the largest worker has 2.0 GiB" in refusal(api, LARGE)
    show_worker(redis_server, "middle", memory=3 * GIB)
    assert "the largest worker has 3.0 GiB" in refusal(api, LARGE)
    show_worker(redis_server, "large", memory=64 * GIB)
    assert api.http.post("/v1/jobs", json=LARGE).status_code == 202


@pytest.mark.parametrize(
    ("said", "told"), [({}, machine.memory()), ({"CLIPCANVAS_DEVICE_MEMORY": "2GiB"}, 2 * GIB)]
)
def test_a_worker_tells_its_memory(
    settings: WorkerSettings, queue: JobQueue, said: dict[str, str], told: int
) -> None:
    environment = {
        **os.environ,
        "CLIPCANVAS_REDIS_URL": settings.redis_url,
        "CLIPCANVAS_STORE": settings.store,
        "CLIPCANVAS_GENERATORS": '["gradient"]',
        "CLIPCANVAS_DEVICE": "cpu",
        **said,
    }
    worker = subprocess.Popen([sys.executable, "-m", "workers"], env=environment, stderr=subprocess.DEVNULL)
    try:
        LiveApi.wait_until(lambda: [seen.detail.get("memory") for seen in queue.workers()] == [told], 30)
    finally:
        worker.terminate()
        worker.wait(20)


class Notes(Generates):
    """Notes how it was asked to draw; frugally or not, there is too little memory if `hungry`."""

    def __init__(self, hungry: bool = False) -> None:
        super().__init__(lambda step: None)
        self.asked: list[bool] = []
        self.hungry = hungry

    def __call__(self, drawing: Drawing) -> Iterator[Step]:
        import torch

        self.asked.append(drawing.low_memory)
        if self.hungry:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        yield from super().__call__(drawing)


@pytest.mark.parametrize(("memory", "asked"), [(64 * GIB, [False]), (GIB // 2, [True])])
def test_a_worker_draws_frugally_at_once_where_the_usual_way_does_not_fit(
    queue: JobQueue, settings: WorkerSettings, memory: int, asked: list[bool]
) -> None:
    """On a CPU there is no second try: a process that takes too much is killed."""
    job_id = create(queue)
    generator = Notes()
    Worker(settings.model_copy(update={"device_memory": memory}), generator).work()
    assert (queue.get(job_id).status, generator.asked) == (Status.SUCCEEDED, asked)


def test_what_does_not_fit_frugally_is_not_tried_again(queue: JobQueue, settings: WorkerSettings) -> None:
    job_id = create(queue)
    generator = Notes(hungry=True)
    Worker(settings.model_copy(update={"device_memory": GIB // 2}), generator).work()
    job = queue.get(job_id)
    assert job.error
    assert (job.error.code, generator.asked) == ("cuda_oom", [True])
