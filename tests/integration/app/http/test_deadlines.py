"""A job that nobody starts in time expires; one that runs for too long fails, all its attempts together."""

import threading
import time

import pytest

from jobs.queue import JobQueue
from jobs.record.lease import Lease
from jobs.record.record import Status, call, key
from storage.blobs import open_store
from storage.redis import connect
from tests.support.live_api import LiveApi, StartApi
from tests.support.worker import SLOW, Generates, Worker, create
from workers.janitor import Janitor
from workers.settings import WorkerSettings


def start(settings: WorkerSettings, job_id: str) -> Lease | str:
    return Lease.start(connect(settings.redis_url, patience_s=1), job_id, "w", 30)


def test_the_janitor_ends_what_nobody_started_in_time(queue: JobQueue, settings: WorkerSettings) -> None:
    late, patient, started = (
        create(queue, start_timeout_s=0.1),
        create(queue, start_timeout_s=60),
        create(queue, start_timeout_s=0.1),
    )
    assert isinstance(start(settings, started), Lease)
    time.sleep(0.15)
    Janitor(settings, open_store(settings.store), threading.Event()).sweep()
    job = queue.get(late)
    assert (job.status, job.error, job.outputs) == (Status.EXPIRED, None, ())
    assert job.finished_at
    assert job.expires_at
    assert queue.get(patient).status == Status.QUEUED
    assert queue.get(started).status == Status.RUNNING
    events = connect(settings.redis_url, patience_s=1).xrange(key("events", late))
    assert [fields["event"] for _, fields in events] == ["status", "completed"]


def test_a_worker_that_comes_too_late_does_not_start_it(queue: JobQueue, settings: WorkerSettings) -> None:
    job_id = create(queue, start_timeout_s=0.05)
    time.sleep(0.1)
    for _ in range(2):  # a repeated call is answered as the first
        assert start(settings, job_id) == "expired"
    assert queue.get(job_id).attempt == 0
    assert call(connect(settings.redis_url, patience_s=1), "expire_late") == []


def test_a_job_that_was_started_once_does_not_expire(queue: JobQueue, settings: WorkerSettings) -> None:
    job_id = create(queue, start_timeout_s=0.1)
    lease = start(settings, job_id)
    assert isinstance(lease, Lease)
    lease.hand_back()
    time.sleep(0.15)
    assert call(lease.connection, "expire_late") == []
    assert isinstance(start(settings, job_id), Lease)


def test_a_job_that_was_canceled_does_not_expire(queue: JobQueue, settings: WorkerSettings) -> None:
    job_id = create(queue, start_timeout_s=0.05)
    queue.cancel(job_id, "")
    time.sleep(0.1)
    assert call(connect(settings.redis_url, patience_s=1), "expire_late") == []
    assert queue.get(job_id).status == Status.CANCELED


def test_a_job_that_runs_for_too_long_fails(queue: JobQueue, settings: WorkerSettings) -> None:
    job_id = create(queue, SLOW, run_timeout_s=0.5)  # it would take 8 s
    Worker(settings).work()
    job = queue.get(job_id)
    assert job.error
    assert (job.status, job.error.code, job.error.retryable) == (Status.FAILED, "timeout", False)
    assert job.error.detail == "the job took longer than 0.5 s"


def test_no_request_runs_for_longer_than_the_worker_s_own_limit(
    queue: JobQueue, settings: WorkerSettings
) -> None:
    job_id = create(queue, SLOW, run_timeout_s=3600)
    Worker(settings.model_copy(update={"run_timeout_s": 0.3})).work()
    job = queue.get(job_id)
    assert job.error
    assert job.error.code == "timeout"


def test_the_time_of_earlier_attempts_counts_and_the_time_in_the_queue_does_not(
    queue: JobQueue, settings: WorkerSettings
) -> None:
    job_id = create(queue, SLOW, run_timeout_s=4)
    lease = start(settings, job_id)
    assert isinstance(lease, Lease)
    time.sleep(2)
    lease.hand_back()
    earlier_s = queue.get(job_id).ran_s
    time.sleep(2)  # nobody works
    assert queue.get(job_id).ran_s == earlier_s >= 2
    Worker(settings).work()
    job = queue.get(job_id)
    assert job.error
    assert (job.status, job.error.code) == (Status.FAILED, "timeout")
    # it would be 6 if each attempt had its own 4, and 2 if the time in the queue counted
    assert 3.9 < job.ran_s < 5.9


def test_a_job_whose_worker_is_lost_past_its_time_is_not_queued_again(
    queue: JobQueue, settings: WorkerSettings
) -> None:
    job_id = create(queue, run_timeout_s=0.1)
    lease = start(settings, job_id)
    assert isinstance(lease, Lease)
    time.sleep(0.15)
    lease.connection.zadd(key("running"), {job_id: 1})  # as if the lease's time had passed
    assert call(lease.connection, "recover_lost") == [job_id, "failed"]
    job = queue.get(job_id)
    assert job.error
    assert (job.status, job.error.code) == (Status.FAILED, "timeout")


def test_others_are_not_kept_by_a_job_at_its_end(queue: JobQueue, settings: WorkerSettings) -> None:
    long, short = create(queue, SLOW, run_timeout_s=0.5), create(queue)
    worker = Worker(settings, Generates(lambda step: None))
    worker.rq.work(burst=True, logging_level="WARNING")
    assert [queue.get(job_id).status for job_id in (long, short)] == [Status.FAILED, Status.SUCCEEDED]


QUICK = {"prompt": "a fox", "generator": "gradient", "width": 32, "height": 32, "steps": 4}


def test_deadlines_are_asked_for_with_the_job(
    api: LiveApi, queue: JobQueue, settings: WorkerSettings
) -> None:
    answer = api.http.post("/v1/jobs", json={**QUICK, "start_timeout_s": 1, "run_timeout_s": 30})
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    assert queue.get(job_id).run_timeout_s == 30
    time.sleep(1.1)
    assert start(settings, job_id) == "expired"
    told = api.http.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=5"}).json()
    assert (told["status"], told["error"]) == ("expired", None)
    assert api.http.post(f"/v1/jobs/{job_id}/cancel").status_code == 409
    assert api.http.get("/v1/jobs?status=expired").json()["last_id"] == job_id
    without = api.http.post("/v1/jobs", json=QUICK).json()["id"]
    assert queue.get(without).run_timeout_s == settings.run_timeout_s


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("start_timeout_s", 0, "greater_than_equal"),
        ("start_timeout_s", -1, "greater_than_equal"),
        ("start_timeout_s", 1.5, "int_type"),
        ("start_timeout_s", "60", "int_type"),
        ("start_timeout_s", 101, "limit_exceeded"),
        ("run_timeout_s", 0, "greater_than_equal"),
        ("run_timeout_s", 51, "limit_exceeded"),
        ("run_timeout_s", 10**30, "limit_exceeded"),
        ("run_timeout_s", True, "int_type"),
    ],
)
def test_a_deadline_that_cannot_be_is_refused(
    start_api: StartApi, field: str, value: object, code: str
) -> None:
    api = start_api(max_start_timeout_s=100, run_timeout_s=50)
    answer = api.http.post("/v1/jobs", json={**QUICK, field: value})
    assert answer.status_code == 422
    [fault] = answer.json()["errors"]
    assert (fault["pointer"], fault["code"]) == (f"#/{field}", code)
    if code == "limit_exceeded":
        assert f"at most {100 if field == 'start_timeout_s' else 50} " in fault["detail"]
