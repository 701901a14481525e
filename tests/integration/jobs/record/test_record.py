"""The record of a job changes only as its states allow, and only by who may change it."""

import asyncio
import json

import pytest

from jobs.queue import (
    Idempotency,
    IdempotencyConflict,
    JobNotFinal,
    JobQueue,
    NewJob,
    QueueFull,
    TenantQueueFull,
    new_id,
)
from jobs.record.events import follow
from jobs.record.lease import Lease, LeaseLost
from jobs.record.record import JobError, JobMissing, Output, Progress, Status, call, key
from jobs.settings import JobSettings
from models.requests.request import GenerationRequest, Prompt
from storage.redis import connect, connect_async
from tests.support.redis_server import RedisServer

REQUEST = GenerationRequest(
    generator="gradient", prompts=(Prompt(text="a fox"),), width=64, height=64, steps=5, seed=1
)


@pytest.fixture
def settings(redis_server: RedisServer) -> JobSettings:
    return JobSettings(redis_url=redis_server.url, max_queued=5, max_queued_per_key=3, lease_s=0.5)


@pytest.fixture
def queue(settings: JobSettings) -> JobQueue:
    return JobQueue(settings)


def create(queue: JobQueue, **fields: object) -> str:
    new = NewJob(**{"id": new_id(), "request": REQUEST, **fields})  # type: ignore[arg-type]
    assert queue.create(new) is None
    return new.id


def start(settings: JobSettings, job_id: str) -> Lease:
    lease = Lease.start(connect(settings.redis_url, patience_s=1), job_id, "worker-1", settings.lease_s)
    assert isinstance(lease, Lease), lease
    return lease


def test_a_new_job_is_queued_and_read_back_whole(queue: JobQueue) -> None:
    first = create(queue, metadata={"order": "7"})
    second = create(queue, priority="high")
    job = queue.get(first)
    assert (job.status, job.seq, job.attempt, job.request) == (Status.QUEUED, 1, 0, REQUEST)
    assert job.metadata == {"order": "7"}
    assert job.queue_position == 1, "a high priority goes first"
    assert queue.get(second).queue_position == 0


def test_ids_sort_by_time() -> None:
    ids = [new_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert {len(job_id) for job_id in ids} == {30}
    # 12 digits after the prefix: to 4 µs; within these the order is random
    assert [job_id[:16] for job_id in ids] == sorted(job_id[:16] for job_id in ids)


def test_a_repeated_create_is_answered_as_the_first(queue: JobQueue) -> None:
    first = NewJob(id=new_id(), request=REQUEST)
    assert queue.create(first, Idempotency("k", "same", "first answer")) is None
    assert queue.create(NewJob(id=new_id(), request=REQUEST), Idempotency("k", "same", "x")) == "first answer"
    with pytest.raises(IdempotencyConflict):
        queue.create(NewJob(id=new_id(), request=REQUEST), Idempotency("k", "other", "x"))
    other_tenant = NewJob(id=new_id(), request=REQUEST, tenant="bob")
    assert queue.create(other_tenant, Idempotency("k", "other", "x")) is None
    assert [job.id for job in queue.find("")[0]] == [first.id]


def test_a_full_queue_refuses(queue: JobQueue) -> None:
    for _ in range(3):
        create(queue, tenant="ann")
    with pytest.raises(TenantQueueFull, match="3"):
        create(queue, tenant="ann")
    create(queue, tenant="bob")
    create(queue, tenant="bob")
    with pytest.raises(QueueFull, match="5"):
        create(queue, tenant="cid")


def test_tenants_take_turns_and_priorities_go_first(redis_server: RedisServer) -> None:
    settings = JobSettings(redis_url=redis_server.url)
    queue = JobQueue(settings)
    ids: dict[str, str] = {}
    names = ("a0", "a1", "a2", "a3", "b0", "b1", "c0")
    for name in names:
        ids[create(queue, tenant=name[0])] = name
    ids[create(queue, tenant="a", priority="high")] = "a-high"
    ids[create(queue, tenant="c", priority="low")] = "c-low"
    connection = connect(settings.redis_url, patience_s=1)
    order = []
    while lease := Lease.start_next(connection, "worker-1", 10):
        order.append(ids[lease.job_id])
    assert order == ["a-high", "b0", "c0", "a0", "b1", "a1", "a2", "a3", "c-low"]
    late = create(queue, tenant="d")
    create(queue, tenant="a")
    assert queue.get(late).queue_position == 0, "who was never served goes first"


def test_queue_positions_are_the_order_of_starts(queue: JobQueue, settings: JobSettings) -> None:
    ids = [create(queue, tenant=tenant) for tenant in ("a", "b", "a")]
    connection = connect(settings.redis_url, patience_s=1)
    first = Lease.start_next(connection, "worker-1", 10)
    assert first
    assert first.job_id == ids[0]
    ids += [create(queue, tenant="a"), create(queue, tenant="b")]
    positions = {job_id: queue.get(job_id).queue_position for job_id in ids[1:]}
    while lease := Lease.start_next(connection, "worker-1", 10):
        assert positions.pop(lease.job_id) == len(ids) - 2 - len(positions)
    assert not positions


def test_a_job_runs_to_its_end(queue: JobQueue, settings: JobSettings) -> None:
    job_id = create(queue)
    lease = start(settings, job_id)
    assert (lease.attempt, queue.get(job_id).status, queue.get(job_id).queue_position) == (1, "running", None)
    preview = Output("preview-0.jpg", f"{job_id}/t/preview-0.jpg", "image/jpeg", 64, 64)
    lease.report(progress=Progress(step=2, steps=5, loss=0.5, preview=preview), previewed=True)
    assert queue.get(job_id).file("preview-0.jpg") == preview
    output = Output("image-0.png", f"{job_id}/t/image-0.png", "image/png", 64, 64, 1, 0.25)
    lease.finish(Status.SUCCEEDED, outputs=[output])
    job = queue.get(job_id)
    assert (job.status, job.outputs, job.error) == (Status.SUCCEEDED, (output,), None)
    assert job.finished_at
    assert job.expires_at
    assert (job.expires_at - job.finished_at).total_seconds() == settings.retention_s
    assert queue.counts() == {"queued": 0, "running": 0}


def test_a_final_state_never_changes(queue: JobQueue, settings: JobSettings) -> None:
    job_id = create(queue)
    lease = start(settings, job_id)
    lease.finish(Status.FAILED, error=JobError("internal", "it broke"))
    seq = queue.get(job_id).seq
    with pytest.raises(LeaseLost):
        lease.finish(Status.SUCCEEDED, outputs=[])
    with pytest.raises(LeaseLost):
        lease.report(progress=Progress(1, 2))
    assert queue.cancel(job_id, "") == "failed"
    assert Lease.start(lease.connection, job_id, "worker-2", 1) == "failed"
    assert (queue.get(job_id).status, queue.get(job_id).seq) == (Status.FAILED, seq)


def test_a_call_whose_reply_was_lost_may_be_made_again(queue: JobQueue, settings: JobSettings) -> None:
    new = NewJob(id=new_id(), request=REQUEST)
    queue.create(new)
    connection = connect(settings.redis_url, patience_s=1)
    for _ in range(2):
        assert call(connection, "start", id=new.id, token="token", worker="worker-1", lease_ms=1000) == 1
    queue.create(new)
    assert queue.get(new.id).status == Status.RUNNING
    lease = Lease(connection, new.id, "token", 1, 1)
    for _ in range(2):
        lease.hand_back()
    assert (queue.get(new.id).status, queue.get(new.id).attempt) == (Status.QUEUED, 0)
    lease = start(settings, new.id)
    for _ in range(2):
        lease.finish(Status.SUCCEEDED, outputs=[])
    seq = queue.get(new.id).seq
    with pytest.raises(LeaseLost):
        lease.finish(Status.FAILED, error=JobError("internal", "x"))
    assert queue.get(new.id).seq == seq


def test_only_one_worker_starts_a_job(queue: JobQueue, settings: JobSettings) -> None:
    job_id = create(queue)
    lease = start(settings, job_id)
    assert Lease.start(lease.connection, job_id, "worker-2", 1) == "leased"


def test_a_lost_lease_is_taken_over_and_its_loser_writes_nothing(
    queue: JobQueue, settings: JobSettings
) -> None:
    job_id = create(queue)
    loser = start(settings, job_id)
    connection = loser.connection
    connection.zadd(key("running"), {job_id: 1})  # as if its time had passed
    assert call(connection, "recover_lost") == [job_id, "queued"]
    winner = start(settings, job_id)
    assert winner.attempt == 2
    with pytest.raises(LeaseLost):
        loser.finish(Status.SUCCEEDED, outputs=[])
    assert queue.get(job_id).status == Status.RUNNING
    winner.finish(Status.SUCCEEDED, outputs=[])


def test_a_job_that_loses_every_worker_fails(queue: JobQueue, settings: JobSettings) -> None:
    job_id = create(queue)
    for attempt in range(1, settings.max_attempts + 1):
        lease = start(settings, job_id)
        assert lease.attempt == attempt
        lease.connection.zadd(key("running"), {job_id: 1})
        outcome = call(lease.connection, "recover_lost")[1]
    assert outcome == "failed"
    job = queue.get(job_id)
    assert job.error
    assert (job.status, job.error.code, job.error.retryable) == (Status.FAILED, "worker_lost", True)


def test_a_job_handed_back_costs_no_attempt_and_goes_first(queue: JobQueue, settings: JobSettings) -> None:
    first, second = create(queue), create(queue)
    lease = start(settings, first)
    lease.report(checkpoint=f"{first}/t/checkpoint")
    lease.hand_back()
    job = queue.get(first)
    assert (job.status, job.attempt, job.queue_position) == (Status.QUEUED, 0, 0)
    assert job.checkpoint == f"{first}/t/checkpoint"
    assert queue.get(second).queue_position == 1


def test_cancel(queue: JobQueue, settings: JobSettings) -> None:
    waiting, running = create(queue), create(queue)
    assert queue.cancel(waiting, "") == "canceled"
    assert queue.cancel(waiting, "") == "canceled"
    assert queue.get(waiting).finished_at
    lease = start(settings, running)
    assert lease.report() is False
    assert queue.cancel(running, "") == "requested"
    assert queue.get(running).status == Status.RUNNING
    assert queue.get(running).cancel_requested_at
    assert lease.report() is True
    lease.finish(Status.CANCELED)
    assert queue.get(running).status == Status.CANCELED
    with pytest.raises(JobMissing):
        queue.cancel(running, "somebody else")


def test_delete_forgets_a_final_job_only(queue: JobQueue) -> None:
    job_id = create(queue)
    with pytest.raises(JobNotFinal):
        queue.delete(job_id, "")
    queue.cancel(job_id, "")
    with pytest.raises(JobMissing):
        queue.delete(job_id, "somebody else")
    queue.delete(job_id, "")
    with pytest.raises(JobMissing):
        queue.get(job_id)
    assert queue.find("") == ([], False)


def test_pages_have_each_job_once_newest_first(queue: JobQueue) -> None:
    ids = [create(queue, tenant=tenant) for tenant in ("ann", "bob", "ann", "bob", "ann")]
    queue.cancel(ids[2], "ann")
    page, more = queue.find("ann", limit=2)
    assert ([job.id for job in page], more) == ([ids[4], ids[2]], True)
    page, more = queue.find("ann", limit=2, after=ids[2])
    assert ([job.id for job in page], more) == ([ids[0]], False)
    queued, _ = queue.find("ann", status=Status.QUEUED, after=ids[2])
    assert [job.id for job in queued] == [ids[0]]
    with pytest.raises(JobMissing):
        queue.find("ann", after=ids[1])


async def test_events_resume_without_gap_or_duplicate(queue: JobQueue, settings: JobSettings) -> None:
    job_id = create(queue)
    lease = start(settings, job_id)
    for step in range(1, 4):
        lease.report(progress=Progress(step, 3))
    lease.finish(Status.SUCCEEDED, outputs=[])
    connection = connect_async(settings.redis_url)
    async with asyncio.timeout(5), connection:
        events = [event async for event in follow(connection, job_id) if event]
        later = [event async for event in follow(connection, job_id, events[2].id) if event]
        with pytest.raises(ValueError, match="not the id"):
            await anext(follow(connection, job_id, "$"))
    kinds = [event.event for event in events]
    assert kinds == ["status", "status", "progress", "progress", "progress", "completed"]
    assert [json.loads(event.data)["step"] for event in events[2:5]] == [1, 2, 3]
    assert later == events[3:]
    assert queue.get(job_id).seq == len(events)
