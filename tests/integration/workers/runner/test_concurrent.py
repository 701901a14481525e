"""A worker that runs several jobs at once, on a real Redis, with the generator that needs no weights."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.queue import JobQueue
from jobs.record.lease import Lease
from jobs.record.record import Job, Status
from models.requests.generator import GenerationError
from storage.blobs import Store
from tests.support.worker import REQUEST, SLOW, Generates, Worker, create, in_thread, wait_for
from workers.runner import attempt
from workers.settings import WorkerSettings

LONG = SLOW.model_copy(update={"steps": 150})
OTHER = REQUEST.model_copy(update={"width": 32})


@pytest.fixture
def settings(worker_settings: Callable[..., WorkerSettings]) -> WorkerSettings:
    return worker_settings(jobs_at_once=2)


def is_running(job: Job) -> bool:
    return bool(job.status == Status.RUNNING and job.progress and job.progress.step > 2)


def test_jobs_that_go_together_run_at_once_and_their_bytes_are_those_drawn_alone(
    queue: JobQueue, settings: WorkerSettings, store: Store
) -> None:
    alone = create(queue, LONG)
    Worker(settings.model_copy(update={"jobs_at_once": 1})).work()
    first, second, third = (create(queue, LONG) for _ in range(3))
    seen: list[tuple[list[str], Status]] = []

    def look() -> None:
        for job_id in (first, second):
            wait_for(queue, job_id, is_running)
        seen.append((queue.workers()[0].detail["job"].split(), queue.get(third).status))

    thread = in_thread(look)
    Worker(settings).work()
    thread.join()
    assert [([first, second], Status.QUEUED)] == seen, "two at once, and no more"
    jobs = [queue.get(job_id) for job_id in (alone, first, second, third)]
    assert {job.status for job in jobs} == {Status.SUCCEEDED}
    assert len({store.read(job.outputs[0].key) for job in jobs}) == 1


def test_a_job_that_does_not_go_with_the_others_is_not_overtaken(
    queue: JobQueue, settings: WorkerSettings
) -> None:
    first, other, later = create(queue, LONG), create(queue, OTHER), create(queue, LONG)
    Worker(settings).work()
    ran = [queue.get(job_id) for job_id in (first, other, later)]
    assert {job.status for job in ran} == {Status.SUCCEEDED}
    assert [job.attempt for job in ran] == [1, 1, 1]
    moments = [moment for job in ran for moment in (job.started_at, job.finished_at) if moment]
    assert moments == sorted(moments), "one after the other"


def test_a_job_that_fails_or_is_canceled_leaves_the_other_alone(
    queue: JobQueue, settings: WorkerSettings
) -> None:
    failing, fine, canceled = create(queue, LONG), create(queue, LONG), create(queue, LONG)
    threads: dict[str, int] = {}

    def fail(step: int) -> None:
        me = threading.current_thread().name
        threads[me] = step
        if me == failing and step == 20:
            raise GenerationError("no more")

    def cancel() -> None:
        wait_for(queue, canceled, is_running)
        queue.cancel(canceled, "")

    thread = in_thread(cancel)
    Worker(settings, Generates(fail)).work()
    thread.join()
    assert {failing, fine, canceled} == threads.keys()
    ended = [queue.get(job_id) for job_id in (failing, fine, canceled)]
    assert [job.status for job in ended] == [Status.FAILED, Status.SUCCEEDED, Status.CANCELED]
    assert ended[0].error
    assert ended[0].error.detail == "no more"


def test_a_drained_worker_hands_all_of_its_jobs_back(
    queue: JobQueue, settings: WorkerSettings, store: Store
) -> None:
    ids = [create(queue, LONG) for _ in range(2)]
    worker = Worker(settings)

    def drain() -> None:
        for job_id in ids:
            wait_for(queue, job_id, is_running)
        worker.drain.set()

    thread = in_thread(drain)
    worker.run_job(ids[0])
    thread.join()
    assert [(queue.get(i).status, queue.get(i).attempt) for i in ids] == [(Status.QUEUED, 0)] * 2
    assert all(queue.get(job_id).checkpoint for job_id in ids)
    Worker(settings).work()
    assert {Status.SUCCEEDED} == {queue.get(job_id).status for job_id in ids}


def test_a_lost_lease_stops_its_own_job_only(queue: JobQueue, settings: WorkerSettings) -> None:
    lost, kept = create(queue, LONG), create(queue, LONG)
    worker = Worker(settings)

    def steal() -> None:
        for job_id in (lost, kept):
            wait_for(queue, job_id, is_running)
        connection = worker.attempts._retrying
        token = queue.get(lost).tokens[-1]
        Lease(connection, lost, token, 1, 1).give_up()

    thread = in_thread(steal)
    worker.work()
    thread.join()
    assert queue.get(kept).status == Status.SUCCEEDED
    assert queue.get(kept).attempt == 1
    assert queue.get(lost).attempt == 2, "somebody, here the same worker, took it up again"


def test_the_first_of_several_hard_limits_ends_a_process_that_hangs(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = """
import time
from workers.runner.attempt import HardLimits
limits = HardLimits()
limits.hold("a", 60); limits.hold("b", 0.5); limits.hold("c", 0.3); limits.release("c")
time.sleep(30)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=25)
    assert ended.returncode == 1
    assert b"Timeout" in ended.stderr
    limits = attempt.HardLimits()
    limits.hold("a", 0.2)
    limits.release("a")
    threading.Event().wait(0.4)  # and nothing happens
