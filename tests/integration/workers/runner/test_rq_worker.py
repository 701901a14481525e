"""A worker and the janitor on a real Redis, with the generator that needs no weights."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rq import Queue
from rq.exceptions import DequeueTimeout
from rq.serializers import JSONSerializer

from jobs.queue import JobQueue
from jobs.record.lease import Lease
from jobs.record.record import JobMissing, Status, call, key
from models.requests.generator import Drawing, GenerationError, Step
from storage.blobs import KeyMissing, StorageFull, Store, StoreUnavailable, open_store
from storage.redis import connect, connect_rq
from tests.support.redis_server import RedisServer
from tests.support.worker import REQUEST, SLOW, Generates, Worker, create, in_thread, wait_for
from workers import janitor
from workers.janitor import Janitor
from workers.settings import WorkerSettings


def test_jobs_run_by_priority_and_their_images_are_kept(
    queue: JobQueue, settings: WorkerSettings, store: Store
) -> None:
    ids = [create(queue, priority=priority) for priority in ("low", "normal", "high")]
    Worker(settings).work()
    jobs = [queue.get(job_id) for job_id in ids]
    assert {job.status for job in jobs} == {Status.SUCCEEDED}
    started = sorted(jobs, key=lambda job: job.started_at or job.created_at)
    assert [job.priority for job in started] == ["high", "normal", "low"]
    for job in jobs:
        assert store.read(job.outputs[0].key).startswith(b"\x89PNG")
        assert job.progress
        assert job.progress.step == 6
    assert len({store.read(job.outputs[0].key) for job in jobs}) == 1, "one request, one seed, the same bytes"


def test_a_worker_leaves_nothing_on_rqs_lists(queue: JobQueue, settings: WorkerSettings) -> None:
    create(queue)
    Worker(settings).work()
    connection = connect(settings.redis_url, patience_s=1)
    left = {name for name in connection.scan_iter("rq:*") if ":job:" in name or ":queue:" in name}
    assert left == set()


def test_rqs_records_of_a_running_job_outlive_it(queue: JobQueue, settings: WorkerSettings) -> None:
    create(queue)
    connection = connect(settings.redis_url, patience_s=1)
    left_s: list[int] = []

    def look(step: int) -> None:
        left_s.extend(connection.ttl(name) for name in connection.scan_iter("rq:execution:*"))

    Worker(settings, Generates(look)).work()
    assert left_s
    assert min(left_s) > settings.run_timeout_s - 60


def test_a_popped_job_is_on_a_list_until_it_starts(queue: JobQueue, settings: WorkerSettings) -> None:
    create(queue, priority="low")
    worker = Worker(settings)
    popped = worker.rq.queue_class.dequeue_any(
        worker.rq.queues, None, worker.rq.connection, job_class=worker.rq.job_class, serializer=JSONSerializer
    )
    assert popped
    assert worker.rq.connection.lrange("rq:queue:normal:intermediate", 0, -1) == [popped[0].id.encode()]


@pytest.mark.parametrize("name", ["high", "low"])
def test_a_ticket_in_a_queue_of_the_version_before_is_taken(
    queue: JobQueue, settings: WorkerSettings, name: str
) -> None:
    job_id = create(queue)
    connection = connect(settings.redis_url, patience_s=1)
    connection.rename("rq:queue:normal", f"rq:queue:{name}")
    Worker(settings).work()
    assert queue.get(job_id).status == Status.SUCCEEDED


def test_an_idle_worker_blocks_on_redis_and_wakes_at_once(queue: JobQueue, settings: WorkerSettings) -> None:
    worker = Worker(settings)
    connection = connect(settings.redis_url, patience_s=1)
    asked: list[int] = []

    def observe() -> None:
        before = connection.info("stats")["total_commands_processed"]
        time.sleep(2)
        asked.append(connection.info("stats")["total_commands_processed"] - before)
        create(queue)

    thread = in_thread(observe)
    pop = worker.rq.queue_class.dequeue_any
    kinds = {"job_class": worker.rq.job_class, "serializer": JSONSerializer}
    started_s = time.monotonic()
    assert pop(worker.rq.queues, 30, worker.rq.connection, **kinds)
    assert time.monotonic() - started_s < 20, "the ticket ended the wait"
    thread.join()
    assert asked[0] < 20, "commands in two seconds"
    with pytest.raises(DequeueTimeout):
        pop(worker.rq.queues, 1, worker.rq.connection, **kinds)


def test_a_forged_job_runs_nothing(settings: WorkerSettings, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    forged = Queue(
        "normal", connection=connect_rq(settings.redis_url, patience_s=1), serializer=JSONSerializer
    )
    forged.enqueue_call("os.system", args=(f"touch {proof}",))
    Worker(settings).work()
    assert not proof.exists()


@pytest.mark.parametrize(
    ("error", "code", "detail"),
    [
        (GenerationError("the loss is not finite"), "generation_failed", "the loss is not finite"),
        (OSError("/secret/path"), "internal", "internal error"),
        (StoreUnavailable("x"), "storage_unavailable", "the store cannot be reached"),
        (StorageFull(28, "x"), "storage_full", "there is no room left for the images"),
    ],
)
def test_a_failing_job_says_why_and_no_more(
    queue: JobQueue, settings: WorkerSettings, error: Exception, code: str, detail: str
) -> None:
    def fail(step: int) -> None:
        if step == 3:
            raise error

    job_id, next_id = create(queue), create(queue, REQUEST.model_copy(update={"steps": 2}))
    Worker(settings, Generates(fail)).work()
    job = queue.get(job_id)
    assert job.status == Status.FAILED
    assert job.error
    assert (job.error.code, job.error.detail) == (code, detail)
    assert queue.get(next_id).status == Status.SUCCEEDED, "the worker goes on"


class Hungry(Generates):
    """Runs out of the device's memory at its third step, unless it has `low_memory` and `needs` little."""

    def __init__(self, needs: str) -> None:
        super().__init__(lambda step: None)
        self.needs = needs

    def __call__(self, drawing: Drawing) -> Iterator[Step]:
        import torch

        for step in super().__call__(drawing):
            if step.index == 3 and not (drawing.low_memory and self.needs == "little"):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            yield step


@pytest.mark.parametrize(("needs", "status"), [("little", Status.SUCCEEDED), ("much", Status.FAILED)])
def test_out_of_memory_is_tried_again_with_less_once(
    queue: JobQueue, settings: WorkerSettings, needs: str, status: Status
) -> None:
    job_id = create(queue)
    Worker(settings, Hungry(needs)).work()
    job = queue.get(job_id)
    assert (job.status, job.attempt) == (status, 1)
    assert (job.error.code if job.error else None) == (None if needs == "little" else "cuda_oom")


def test_a_worker_whose_device_is_lost_ends_and_its_job_goes_on(
    queue: JobQueue, settings: WorkerSettings, store: Store
) -> None:
    job_id = create(queue)
    code = """
import torch
from tests.support.worker import Generates, Worker
from workers.settings import WorkerSettings

def fail(step):
    if step == 3:
        raise RuntimeError("CUDA error: device-side assert triggered")

Worker(WorkerSettings(), Generates(fail)).work()
"""
    environment = {
        **os.environ,
        "CLIPCANVAS_REDIS_URL": settings.redis_url,
        "CLIPCANVAS_STORE": settings.store,
        "PYTHONPATH": ".",
    }
    lost = subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, timeout=50)
    assert lost.returncode == 3, lost.stderr.decode()
    assert (queue.get(job_id).status, queue.get(job_id).attempt) == (Status.QUEUED, 1)
    assert not queue.workers()
    Worker(settings).work()
    assert (queue.get(job_id).status, queue.get(job_id).attempt) == (Status.SUCCEEDED, 2)


def test_cancel_stops_a_running_job_within_a_step(queue: JobQueue, settings: WorkerSettings) -> None:
    job_id = create(queue, SLOW)

    def cancel() -> None:
        wait_for(queue, job_id, lambda job: job.status == Status.RUNNING)
        assert queue.cancel(job_id, "") == "requested"

    thread = in_thread(cancel)
    Worker(settings).work()
    thread.join()
    job = queue.get(job_id)
    assert job.status == Status.CANCELED
    assert job.finished_at
    assert job.cancel_requested_at
    # a beat of 0.1 s hears of it; the rest is a busy machine's
    assert (job.finished_at - job.cancel_requested_at).total_seconds() < 3
    assert not job.outputs


def test_a_drained_worker_hands_its_job_to_the_next_which_ends_it_bit_for_bit(
    queue: JobQueue, settings: WorkerSettings, store: Store
) -> None:
    request = SLOW.model_copy(update={"steps": 60})
    whole, handed = create(queue, request), create(queue, request)
    Worker(settings).attempts.run_job(whole)
    first = Worker(settings)

    def drain() -> None:
        wait_for(queue, handed, lambda job: bool(job.progress and job.progress.step > 5))
        first.drain.set()

    thread = in_thread(drain)
    first.attempts.run_job(handed)
    thread.join()
    job = queue.get(handed)
    assert (job.status, job.attempt, job.queue_position) == (Status.QUEUED, 0, 0)
    Worker(settings).work()
    job = queue.get(handed)
    assert (job.status, job.attempt) == (Status.SUCCEEDED, 1)
    assert store.read(job.outputs[0].key) == store.read(queue.get(whole).outputs[0].key)
    with pytest.raises(KeyMissing):
        store.read(f"{job.outputs[0].key.rpartition('/')[0]}/checkpoint")


def test_the_files_of_a_lost_attempt_go_when_the_job_ends(
    queue: JobQueue, settings: WorkerSettings, tmp_path: Path
) -> None:
    job_id = create(queue)
    connection = connect(settings.redis_url, patience_s=1)
    lost = Lease.start(connection, job_id, "dead", 60)
    assert isinstance(lost, Lease)
    store = open_store(settings.store)
    for name in ("checkpoint", "preview-0.jpg", "image-0.png"):
        store.save(f"{job_id}/{lost.token}/{name}", b"x")
    connection.zadd(key("running"), {job_id: 1})
    call(connection, "recover_lost")
    Worker(settings).work()
    job = queue.get(job_id)
    assert (job.status, len(job.tokens)) == (Status.SUCCEEDED, 2)
    kept = {path.name for path in (tmp_path / "store" / job_id).rglob("*")}
    assert kept == {job.tokens[1], "image-0.png", "image-0.json"}


def test_a_worker_writes_the_end_once_redis_takes_it(queue: JobQueue, settings: WorkerSettings) -> None:
    job_id = create(queue)
    connection = connect(settings.redis_url, patience_s=1)

    def fill(step: int) -> None:
        if step == 5:
            connection.config_set("maxmemory", "1mb")
            in_thread(lambda: (time.sleep(2.5), connection.config_set("maxmemory", 0)))  # type: ignore[arg-type,return-value]

    try:
        Worker(settings, Generates(fill)).attempts.run_job(job_id)
    finally:
        connection.config_set("maxmemory", 0)
    assert (queue.get(job_id).status, queue.get(job_id).attempt) == (Status.SUCCEEDED, 1)


def test_a_worker_that_lost_its_lease_publishes_nothing(
    queue: JobQueue, settings: WorkerSettings, store: Store
) -> None:
    job_id = create(queue, SLOW)
    connection = connect(settings.redis_url, patience_s=1)

    def steal() -> None:
        wait_for(queue, job_id, lambda job: job.status == Status.RUNNING)
        connection.zadd(key("running"), {job_id: 1})
        call(connection, "recover_lost")
        assert isinstance(Lease.start(connection, job_id, "thief", 60), Lease)

    thread = in_thread(steal)
    Worker(settings).attempts.run_job(job_id)
    thread.join()
    job = queue.get(job_id)
    assert (job.status, job.attempt, job.outputs) == (Status.RUNNING, 2, ())


def test_a_worker_shows_what_it_does(queue: JobQueue, settings: WorkerSettings) -> None:
    job_id = create(queue, SLOW.model_copy(update={"steps": 50}))
    worker = Worker(settings)
    thread = in_thread(lambda: worker.attempts.run_job(job_id))
    worker.heartbeat.start()
    deadline = time.monotonic() + 5
    while not any(state.state == "busy" for state in queue.workers()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert queue.workers()[0].detail["job"] == job_id
    assert queue.counts() == {"queued": 0, "running": 1}
    thread.join()
    worker.heartbeat.stop()
    assert queue.workers() == []


class TestJanitor:
    @pytest.fixture
    def janitor(self, settings: WorkerSettings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Janitor:
        monkeypatch.setattr(janitor, "SHORT_S", 0)
        monkeypatch.setattr(janitor, "POPPED_S", 0)
        return Janitor(settings, store, threading.Event())

    def test_a_job_of_a_dead_worker_runs_again(
        self, janitor: Janitor, queue: JobQueue, settings: WorkerSettings
    ) -> None:
        job_id = create(queue)
        connection = connect(settings.redis_url, patience_s=1)
        connection.delete("rq:queue:normal")
        assert isinstance(Lease.start(connection, job_id, "dead", 0.01), Lease)
        time.sleep(0.05)
        janitor.sweep()
        Worker(settings).work()
        assert (queue.get(job_id).status, queue.get(job_id).attempt) == (Status.SUCCEEDED, 2)

    def test_a_job_without_a_ticket_gets_one(
        self, janitor: Janitor, queue: JobQueue, settings: WorkerSettings
    ) -> None:
        job_id = create(queue)
        connection = connect(settings.redis_url, patience_s=1)
        connection.delete("rq:queue:normal")
        janitor.sweep()
        assert connection.llen("rq:queue:normal") == 1
        janitor.sweep()
        assert connection.llen("rq:queue:normal") == 1, "one is enough"
        Worker(settings).work()
        assert queue.get(job_id).status == Status.SUCCEEDED

    def test_a_job_popped_by_a_worker_that_died_runs(
        self, janitor: Janitor, queue: JobQueue, settings: WorkerSettings
    ) -> None:
        job_id = create(queue)
        connection = connect(settings.redis_url, patience_s=1)
        connection.lmove("rq:queue:normal", "rq:queue:normal:intermediate")
        janitor.sweep()
        Worker(settings).work()
        assert queue.get(job_id).status == Status.SUCCEEDED

    def test_a_job_whose_time_is_up_is_forgotten_with_its_files(
        self, janitor: Janitor, queue: JobQueue, settings: WorkerSettings, store: Store
    ) -> None:
        job_id = create(queue)
        Worker(settings).work()
        output = queue.get(job_id).outputs[0].key
        janitor.sweep()
        assert store.read(output)
        connect(settings.redis_url, patience_s=1).zadd(key("final"), {job_id: 1})
        janitor.sweep()
        with pytest.raises(JobMissing):
            queue.get(job_id)
        with pytest.raises(KeyMissing):
            store.read(output)

    def test_a_job_that_no_worker_ended_keeps_no_files_of_its_attempts(
        self,
        janitor: Janitor,
        queue: JobQueue,
        settings: WorkerSettings,
        store: Store,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("workers.janitor.UNTIDY_S", 0)
        job_id = create(queue)
        connection = connect(settings.redis_url, patience_s=1)
        for _ in range(settings.max_attempts):
            lease = Lease.start(connection, job_id, "dead", 60)
            assert isinstance(lease, Lease)
            store.save(f"{job_id}/{lease.token}/checkpoint", b"x")
            connection.zadd(key("running"), {job_id: 1})
            janitor.sweep()
        assert queue.get(job_id).status == Status.FAILED
        assert list((tmp_path / "store" / job_id).rglob("*")) == []
        assert queue.untidy(0) == []

    def test_files_without_a_record_are_deleted_once_they_are_old(
        self, janitor: Janitor, queue: JobQueue, settings: WorkerSettings, store: Store, tmp_path: Path
    ) -> None:
        known = create(queue)
        for folder in ("job_old", "job_new", known):
            store.save(f"{folder}/inputs/input-0.png", b"x")
        for folder in ("job_old", known):
            os.utime(tmp_path / "store" / folder, (1, 1))
        janitor.sweep()
        assert sorted(name for name, _ in store.folders()) == sorted(["job_new", known])

    def test_a_lease_that_ran_out_while_redis_was_away_is_its_holders(
        self, redis_server: RedisServer, settings: WorkerSettings, store: Store, queue: JobQueue
    ) -> None:
        job_id = create(queue)
        lease = Lease.start(connect(settings.redis_url, patience_s=20), job_id, "w", settings.lease_s)
        assert isinstance(lease, Lease)
        stop = threading.Event()
        quick = Janitor(settings.model_copy(update={"sweep_every_s": 0.05}), store, stop)
        sweeping = in_thread(quick.run)
        redis_server.stop()
        time.sleep(1.5 * settings.lease_s)
        redis_server.start()
        time.sleep(0.5 * settings.lease_s)  # it sweeps again
        assert lease.report() is False, "not taken back"
        wait_for(queue, job_id, lambda job: job.status == Status.QUEUED, seconds=20)  # once nobody renews it
        stop.set()
        sweeping.join()

    def test_only_one_leads_and_another_follows(self, settings: WorkerSettings, store: Store) -> None:
        first, second = (Janitor(settings, store, threading.Event()) for _ in range(2))
        assert (first._leads(), second._leads(), first._leads()) == (True, False, True)
        first._abdicate()
        assert second._leads()


def test_the_janitor_needs_no_torch() -> None:
    code = "import workers.janitor, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
