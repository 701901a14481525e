"""Faults around the processes: a full disk, a cut network, no weights, workers that freeze or die."""

import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from clipcanvas import Job, JobFailed
from jobs.queue import JobQueue
from jobs.record.record import key
from jobs.settings import JobSettings
from tests.support.cutting_proxy import CuttingProxy
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = pytest.mark.timeout(180)

LEASE_S = 2
QUICK: dict[str, Any] = {
    "prompt": "a fox",
    "generator": "gradient",
    "width": 16,
    "height": 16,
    "steps": 5,
    "seed": 7,
}
SLOW = {**QUICK, "steps": 150, "options": {"delay_s": 0.02}}


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of 256 MB at this folder, if we may make one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A small disk, or None."""
    folder = tmp_path_factory.mktemp("disk") / "small"
    with small_disk(folder) as mounted:
        yield folder if mounted else None


@pytest.fixture(scope="module")
def whole_service(
    redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory, disk: Path | None
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with redis.Redis.from_url(redis_process.url) as client:
        client.flushall()
    settings = {
        "CLIPCANVAS_LEASE_S": str(LEASE_S),
        "CLIPCANVAS_WEIGHTS": str(folder),  # there are none
        "CLIPCANVAS_STORE": ((disk or folder) / "store").as_uri(),
    }
    started = Service(redis_process, folder, **settings)
    started.start("app")
    started.start("workers", "janitor")
    started.wait_until(started.alive, 60)
    yield started
    started.stop()


@pytest.fixture
def service(whole_service: Service) -> Iterator[Service]:
    """The API and the janitor; what a test starts beside them ends with it."""
    known = len(whole_service.processes)
    yield whole_service
    for process in whole_service.processes[known:]:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(10)


def is_drawing(job: Job) -> bool:
    return bool(job.progress and job.progress.step > 5)


def events(service: Service, job_id: str) -> Counter[str]:
    """How often what was told of a job; of its status, which."""
    with redis.Redis.from_url(service.redis.url, decode_responses=True) as connection:
        entries = connection.xrange(key("events", job_id))
    return Counter(
        fields["data"] if fields["event"] == "status" else fields["event"] for _, fields in entries
    )


def files(service: Service, job_id: str) -> set[str]:
    """What the store has of a job."""
    root = Path(service.environment["CLIPCANVAS_STORE"].removeprefix("file://")) / job_id
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def check_one_end(service: Service, job_id: str, attempts: int) -> None:
    """It succeeded, once, and what a client can fetch is there."""
    job = service.wait_for(job_id, lambda job: job.is_final, 60)
    assert (job.status, job.attempt) == ("succeeded", attempts), service.logs()
    assert events(service, job_id)["completed"] == 1
    with service.client() as client:
        for output in job.pictures:
            assert client.output(job_id, output.name).startswith(b"\x89PNG")


def folders(service: Service, job_id: str) -> set[str]:
    """Of the attempts that have files."""
    return {name.partition("/")[0] for name in files(service, job_id)}


def test_a_full_disk_fails_the_job_and_leaves_no_part_of_a_file(service: Service, disk: Path | None) -> None:
    if disk is None:
        pytest.skip("may not mount a small file system here")
    service.worker()
    large = {**QUICK, "width": 1024, "height": 1024, "steps": 2}
    ballast = disk / "ballast"
    with service.client() as client:
        needed = len(client.output(client.draw(timeout_s=60, **large).id, "image-0.png"))
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - needed // 2)
        job = client.create_job(**large)
        with pytest.raises(JobFailed) as caught:
            client.wait(job.id, timeout_s=60)
        assert caught.value.job.error
        assert (caught.value.job.error.code, caught.value.job.error.retryable) == ("storage_full", True)
        assert not files(service, job.id)
        assert httpx.get(f"{service.url}/readyz").json()["parts"]["store"].startswith("failed")
        ballast.unlink()
        assert client.draw(timeout_s=60, **large).status == "succeeded", "the same worker goes on"
        assert httpx.get(f"{service.url}/readyz").json()["parts"]["store"] == "ready"


def test_a_worker_that_was_frozen_past_its_lease_writes_nothing_and_takes_nothing_away(
    service: Service,
) -> None:
    """The image that it had finished is kept, for the one who goes on."""
    frozen = service.worker()
    with service.client() as client:
        job = client.create_job(**SLOW, num_images=2)
        past_one_image = SLOW["steps"] + 60  # and past a checkpoint
        service.wait_for(job.id, lambda job: bool(job.progress and job.progress.step > past_one_image), 60)
        frozen.send_signal(signal.SIGSTOP)
        service.wait_for(job.id, lambda job: job.status == "queued", 60)
        service.worker()
        service.wait_for(job.id, lambda job: job.status == "running" and job.attempt == 2, 60)
        frozen.send_signal(signal.SIGCONT)
    check_one_end(service, job.id, attempts=2)
    assert frozen.poll() is None, "it takes other jobs"
    service.wait_until(lambda: len(folders(service, job.id)) <= 2)


def test_a_worker_that_is_cut_off_from_redis_writes_nothing_once_it_is_back(service: Service) -> None:
    """What it sent meanwhile arrives then, too."""
    proxy = CuttingProxy(service.redis.socket)
    try:
        cut_off = service.start(
            "workers", CLIPCANVAS_GENERATORS='["gradient"]', CLIPCANVAS_REDIS_URL=proxy.url
        )
        with service.client() as client:
            job = client.create_job(**SLOW)
            service.wait_for(job.id, is_drawing)
            proxy.part()
            service.wait_for(job.id, lambda job: job.status == "queued", 60)
            service.worker()
            service.wait_for(job.id, lambda job: job.status == "running" and job.attempt == 2, 60)
            proxy.join()
        check_one_end(service, job.id, attempts=2)
        assert cut_off.poll() is None
        service.wait_until(lambda: len(folders(service, job.id)) == 1)
    finally:
        proxy.close()


def test_a_job_that_is_dispatched_often_runs_once(service: Service) -> None:
    settings = JobSettings(redis_url=service.redis.url)
    queue = JobQueue(settings)
    with service.client() as client:
        ids = [client.create_job(**QUICK).id for _ in range(5)]
        for job_id in ids * 4:
            queue.dispatch(job_id, "draw")
        service.worker()
        service.worker()
        for job_id in ids:
            assert client.wait(job_id, timeout_s=60).attempt == 1
    with redis.Redis.from_url(service.redis.url) as connection:
        service.wait_until(lambda: connection.llen("rq:queue:normal") == 0)
    queue.close()
    for job_id in ids:
        told = events(service, job_id)
        assert (told["completed"], told['{"status":"running","attempt":1}']) == (1, 1), told
        assert len(folders(service, job_id)) == 1


def test_a_film_goes_on_after_kill_9_to_the_same_bytes(service: Service) -> None:
    """And the sidecar of its image, posted back, draws that again."""
    save = {"video": "mp4", "frame_every": 2, "contact_sheet": True}
    killed = service.worker()
    with service.client() as client:
        job = client.create_job(**SLOW, num_images=2, save=save)
        past_one_image = SLOW["steps"] + 60
        service.wait_for(job.id, lambda job: bool(job.progress and job.progress.step > past_one_image), 60)
        killed.kill()
        service.worker()
        ended = service.wait_for(job.id, lambda job: job.is_final, 60)
        assert (ended.status, ended.attempt) == ("succeeded", 2), service.logs()
        quick = {**SLOW, "options": {"delay_s": 0}}
        whole = client.draw(timeout_s=60, **quick, num_images=2, save=save)
        films = [output.name for output in whole.outputs if output.kind == "video"]
        assert films == ["video-0.mp4", "video-1.mp4"]
        for name in (*films, "contact-sheet.png"):
            assert client.output(job.id, name) == client.output(whole.id, name), name
        service.wait_until(lambda: not any("frame" in name for name in files(service, job.id)))
        sidecar = client.output(job.id, "image-1.json")
        headers = {"Content-Type": "application/json"}
        again = httpx.post(f"{service.url}/v1/jobs", content=sidecar, headers=headers).json()["id"]
        service.wait_for(again, lambda job: job.status == "succeeded", 60)
        for mine, theirs in (("image-0.png", "image-1.png"), ("video-0.mp4", "video-1.mp4")):
            assert client.output(again, mine) == client.output(job.id, theirs)


def test_a_job_that_kills_every_worker_fails_and_the_next_one_runs(service: Service) -> None:
    """As one does for which the kernel kills its worker, for want of memory."""
    with service.client() as client:
        job = client.create_job(**SLOW)
        for attempt in (1, 2, 3):
            worker = service.worker()
            service.wait_for(job.id, lambda job, n=attempt: job.status == "running" and job.attempt == n, 60)
            worker.kill()
            service.wait_for(job.id, lambda job: job.status != "running", 60)
        ended = client.job(job.id)
        assert ended.error
        assert (ended.status, ended.error.code) == ("failed", "worker_lost")
        assert events(service, job.id)["completed"] == 1
        service.worker()
        assert client.draw(timeout_s=60, **QUICK).status == "succeeded"


def test_a_worker_without_its_weights_says_so_and_takes_no_job(service: Service) -> None:
    with service.client() as client:
        job = client.create_job(**QUICK)
    worker = service.worker('["vqgan_clip"]')
    shown: dict[str, Any] = {}

    def has_failed() -> bool:
        for state in httpx.get(f"{service.url}/v1/queue").json()["workers"]:
            if state["state"] == "failed":
                shown.update(state)
        return bool(shown)

    service.wait_until(has_failed, 60)
    assert worker.wait(30) == 4
    assert service.environment["CLIPCANVAS_WEIGHTS"] in shown["reason"]
    assert service.wait_for(job.id, lambda job: True).status == "queued"
    service.worker()
    assert service.wait_for(job.id, lambda job: job.is_final, 60).status == "succeeded"
