"""Whatever is asked of a record, in whatever order and however often, it does what a simple model of it does.

Hypothesis asks at random of a real Redis and shrinks what fails to the shortest story.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from jobs.index_request import IndexRequest
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
from jobs.record.lease import Lease, LeaseLost
from jobs.record.priorities import PRIORITIES, TYPES, JobType, first_rank, rank
from jobs.record.record import JobError, JobMissing, Output, Progress, Status, Webhook, call, key
from jobs.settings import JobSettings
from models.requests.request import GenerationRequest, Prompt
from storage.redis import connect
from tests.support.redis_server import RedisServer

REQUEST = GenerationRequest(
    generator="gradient", prompts=(Prompt(text="a fox"),), width=16, height=16, steps=2, seed=1
)
INDEX_REQUEST = IndexRequest(collection="pets", folder="photos")
TENANTS = ("", "ann", "bob")
MAX_QUEUED, MAX_OF_TENANT, MAX_ATTEMPTS = 5, 3, 3
AGES_S = 1000  # no lease or deadline runs out by itself: the rules see to that
WEBHOOK = Webhook(
    url="https://example.com/hook",
    events=("job.started", *(f"job.{status}" for status in Status if status.is_final)),
    destination="example.com:443",
)
ENDS = (Status.SUCCEEDED, Status.FAILED, Status.CANCELED)


@dataclass
class Model:
    """A job as it should be."""

    new: NewJob
    idempotency: Idempotency | None
    status: Status = Status.QUEUED
    seq: int = 1
    attempt: int = 0
    lease: str | None = None
    last_lease: str | None = None
    tokens: list[str] = field(default_factory=list)  # of all its leases
    cancel_requested: bool = False
    lease_ran_out: bool = False
    ran_too_long: bool = False
    starts_by: str | None = None  # "later" | "late"
    checkpoint: str | None = None
    code: str | None = None  # of the error
    told: list[str] = field(default_factory=list)  # to the webhook
    forgettable: bool = False
    sealed: dict[str, str] | None = None  # the record, once it is final

    @property
    def rank(self) -> int:
        return rank(self.new.type, self.new.priority)

    def waits_in(self, tenant: str, rank: int) -> bool:
        return self.status == Status.QUEUED and (self.new.tenant, self.rank) == (tenant, rank)

    def end(self, status: Status, code: str | None = None) -> None:
        self.release()
        self.status, self.code, self.starts_by = status, code, None
        self.seq += 1
        self.told.append(f"job.{status}")

    def release(self) -> None:
        if self.lease:
            self.lease, self.last_lease = None, self.lease
        self.lease_ran_out = False

    def wait_again(self) -> None:
        self.release()
        self.status = Status.QUEUED
        self.seq += 1

    def recover(self) -> None:
        """A lease that ran out."""
        if self.cancel_requested:
            self.end(Status.CANCELED)
        elif self.ran_too_long:
            self.end(Status.FAILED, "timeout")
        elif self.attempt >= MAX_ATTEMPTS:
            self.end(Status.FAILED, "worker_lost")
        else:
            self.wait_again()

    def start(self, token: str) -> int | str:
        """A worker asks for it -> the attempt, or why there is none."""
        if self.status == Status.RUNNING:
            if self.lease == token:
                return self.attempt
            if not self.lease_ran_out:
                return "leased"
            self.recover()
        if self.status == Status.QUEUED and self.starts_by == "late":
            self.end(Status.EXPIRED)
        if self.status != Status.QUEUED:
            return str(self.status)
        self.status, self.lease, self.starts_by = Status.RUNNING, token, None
        if token not in self.tokens:
            self.tokens.append(token)
        if "job.started" not in self.told:
            self.told.append("job.started")
        self.attempt += 1
        self.seq += 1
        return self.attempt


class RecordMachine(RuleBasedStateMachine):
    """Every rule does a thing to the record and to the model; the invariants compare the two."""

    jobs = Bundle("jobs")
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.redis: redis.Redis = connect(self.url, patience_s=1)
        self.redis.flushall()
        self.queue = JobQueue(
            JobSettings(
                redis_url=self.url,
                max_queued=MAX_QUEUED,
                max_queued_per_key=MAX_OF_TENANT,
                max_attempts=MAX_ATTEMPTS,
                run_timeout_s=AGES_S,
                index_timeout_s=AGES_S,
            )
        )
        self.models: dict[str, Model] = {}
        self.remembered: dict[tuple[str, str], Idempotency] = {}
        self.numbers = itertools.count()

    def teardown(self) -> None:
        self.queue.close()
        self.redis.close()

    @rule(
        target=jobs,
        tenant=st.sampled_from(TENANTS),
        job_type=st.sampled_from(TYPES),
        priority=st.sampled_from(PRIORITIES),
        repeat_key=st.sampled_from([None, "k1", "k2"]),
        fingerprint=st.sampled_from(["same", "same", "other"]),
        has_webhook=st.booleans(),
        start_timeout_s=st.sampled_from([None, AGES_S]),
        times=st.integers(1, 2),
    )
    def create(
        self,
        tenant: str,
        job_type: JobType,
        priority: Any,
        repeat_key: str | None,
        fingerprint: str,
        has_webhook: bool,
        start_timeout_s: float | None,
        times: int,
    ) -> Any:
        new = NewJob(
            id=new_id(),
            request=REQUEST if job_type == "draw" else INDEX_REQUEST,
            tenant=tenant,
            type=job_type,
            priority=priority,
            webhook=WEBHOOK if has_webhook else None,
            start_timeout_s=start_timeout_s,
        )
        idempotency = Idempotency(repeat_key, fingerprint, new.id) if repeat_key else None
        expected = self._outcome_of_create(new, idempotency)
        for _ in range(times):
            assert _tried(lambda: self.queue.create(new, idempotency)) == expected
        if expected is not None:
            return multiple()
        if idempotency:
            self.remembered[tenant, idempotency.key] = idempotency
        self.models[new.id] = Model(new, idempotency, starts_by="later" if start_timeout_s else None)
        return new.id

    def _outcome_of_create(self, new: NewJob, idempotency: Idempotency | None) -> object:
        first = self.remembered.get((new.tenant, idempotency.key)) if idempotency else None
        if first and idempotency:
            return first.answer if first.fingerprint == idempotency.fingerprint else IdempotencyConflict
        queued = [model for model in self.models.values() if model.status == Status.QUEUED]
        if len(queued) >= MAX_QUEUED:
            return QueueFull
        if sum(model.new.tenant == new.tenant for model in queued) >= MAX_OF_TENANT:
            return TenantQueueFull
        return None

    @rule(job_id=jobs)
    def create_again_after_a_lost_answer(self, job_id: str) -> None:
        model = self.models[job_id]
        assert self.queue.create(model.new, model.idempotency) is None

    @rule(job_id=jobs, times=st.integers(1, 2))
    def start(self, job_id: str, times: int) -> None:
        token = f"token-{next(self.numbers)}"
        expected = self.models[job_id].start(token)
        for _ in range(times):
            assert self._start(job_id, token) == expected

    @rule(job_id=jobs, data=st.data())
    def start_again_long_after(self, job_id: str, data: st.DataObject) -> None:
        """A start whose answer was lost, asked again when anything may have happened since."""
        model = self.models[job_id]
        if model.tokens:
            token = data.draw(st.sampled_from(model.tokens))
            assert self._start(job_id, token) == model.start(token)

    def _start(self, job_id: str, token: str) -> int | str:
        answer: int | str = call(
            self.redis, "start", id=job_id, token=token, worker="worker-1", lease_ms=AGES_S * 1000
        )
        return answer

    @rule(
        job_id=jobs, data=st.data(), progress=st.booleans(), checkpoint=st.booleans(), times=st.integers(1, 2)
    )
    def report(self, job_id: str, data: st.DataObject, progress: bool, checkpoint: bool, times: int) -> None:
        lease, model = self._lease(job_id, data), self.models[job_id]
        preview = Output("preview-0.jpg", f"{job_id}/{lease.token}/preview-0.jpg", "image/jpeg")
        told = Progress(1, 2, preview=preview) if progress else None
        kept = f"{job_id}/{lease.token}/checkpoint" if checkpoint else ""
        for _ in range(times):
            outcome = _tried(lambda: lease.report(progress=told, previewed=progress, checkpoint=kept))
            if lease.token != model.lease:
                assert outcome is LeaseLost
                continue
            assert outcome is model.cancel_requested
            model.lease_ran_out = False
            model.seq += 2 * progress
            model.checkpoint = kept or model.checkpoint

    @rule(job_id=jobs, data=st.data(), status=st.sampled_from(ENDS), times=st.integers(1, 2))
    def finish(self, job_id: str, data: st.DataObject, status: Status, times: int) -> None:
        lease, model = self._lease(job_id, data), self.models[job_id]
        outputs = (
            [Output("image-0.png", f"{job_id}/{lease.token}/image-0.png", "image/png")]
            if status == Status.SUCCEEDED
            else []
        )
        error = JobError("generation_failed", "why") if status == Status.FAILED else None
        expected: object = None
        if model.lease == lease.token:
            model.end(status, error.code if error else None)
        elif (model.last_lease, model.status) != (lease.token, status):
            expected = LeaseLost
        for _ in range(times):
            assert _tried(lambda: lease.finish(status, outputs=outputs, error=error)) is expected

    @rule(job_id=jobs, data=st.data(), times=st.integers(1, 2))
    def hand_back(self, job_id: str, data: st.DataObject, times: int) -> None:
        self._hand_back(self._lease(job_id, data), times)

    @rule(job_id=jobs)
    def worker_drains(self, job_id: str) -> None:
        self.start(job_id, 1)
        self._hand_back(Lease(self.redis, job_id, self.models[job_id].lease or "none", 1, AGES_S), 1)

    def _hand_back(self, lease: Lease, times: int) -> None:
        model = self.models[lease.job_id]
        expected: object = None
        if model.lease == lease.token:
            model.attempt -= 1
            if model.cancel_requested:
                model.end(Status.CANCELED)
            else:
                model.wait_again()
        elif model.last_lease != lease.token or model.status not in (Status.QUEUED, Status.CANCELED):
            expected = LeaseLost
        for _ in range(times):
            assert _tried(lease.hand_back) is expected

    def _lease(self, job_id: str, data: st.DataObject) -> Lease:
        """The holder's, one of those before it, or a forged one."""
        model = self.models[job_id]
        tokens = [*reversed(model.tokens), "forged"]
        if model.lease:
            tokens = [model.lease, *tokens]
        return Lease(self.redis, job_id, data.draw(st.sampled_from(tokens)), 1, AGES_S)

    @rule(job_id=jobs, times=st.integers(1, 2))
    def cancel(self, job_id: str, times: int) -> None:
        model = self.models[job_id]
        expected: str = model.status
        if model.status == Status.QUEUED:
            model.cancel_requested = True
            model.end(Status.CANCELED)
            expected = "canceled"
        elif model.status == Status.RUNNING:
            model.seq += not model.cancel_requested
            model.cancel_requested = True
            expected = "requested"
        for _ in range(times):
            assert self.queue.cancel(job_id, model.new.tenant) == expected

    @rule(job_id=jobs)
    def meddle_as_another_tenant(self, job_id: str) -> None:
        for act in (self.queue.cancel, self.queue.delete, self.queue.get):
            with pytest.raises(JobMissing):
                act(job_id, "eve")

    @rule(job_id=jobs)
    def delete_too_early(self, job_id: str) -> None:
        model = self.models[job_id]
        if not model.status.is_final:
            with pytest.raises(JobNotFinal):
                self.queue.delete(job_id, model.new.tenant)

    @rule(target=jobs, job_id=consumes(jobs), times=st.integers(1, 2))
    def delete(self, job_id: str, times: int) -> Any:
        model = self.models[job_id]
        if not model.status.is_final:
            return job_id
        self._forget(job_id)
        if times == 2:
            with pytest.raises(JobMissing):
                self.queue.delete(job_id, model.new.tenant)
        return multiple()

    def _forget(self, job_id: str) -> None:
        model = self.models.pop(job_id)
        self.queue.delete(job_id, model.new.tenant)
        with pytest.raises(JobMissing):
            self.queue.get(job_id)
        assert self._start(job_id, "too late") == "missing"
        for token in (*model.tokens, "forged"):
            stale = Lease(self.redis, job_id, token, 1, AGES_S)
            for act in (stale.report, stale.hand_back, lambda stale=stale: stale.finish(Status.SUCCEEDED)):
                assert _tried(act) is LeaseLost

    @rule(job_id=jobs)
    def lease_runs_out(self, job_id: str) -> None:
        if self.redis.zadd(key("running"), {job_id: 1}, xx=True, ch=True):
            self.models[job_id].lease_ran_out = True

    @rule(job_id=jobs, times=st.integers(1, MAX_ATTEMPTS))
    def workers_are_killed(self, job_id: str, times: int) -> None:
        for _ in range(times):
            self.start(job_id, 1)
            self.lease_runs_out(job_id)
            self.janitor_recovers(1)

    @rule(job_id=jobs)
    def runs_too_long(self, job_id: str) -> None:
        if self.models[job_id].status == Status.RUNNING:
            self.redis.hset(key("job", job_id), "leased_ms", 0)
            self.models[job_id].ran_too_long = True

    @rule(job_id=jobs)
    def waits_too_long(self, job_id: str) -> None:
        if self.redis.zadd(key("start_by"), {job_id: 1}, xx=True, ch=True):
            self.models[job_id].starts_by = "late"

    @rule(job_id=jobs)
    def is_kept_long_enough(self, job_id: str) -> None:
        if self.redis.zadd(key("final"), {job_id: 1}, xx=True, ch=True):
            self.models[job_id].forgettable = True

    @rule(times=st.integers(1, 2))
    def janitor_recovers(self, times: int) -> None:
        lost = {job_id: model for job_id, model in self.models.items() if model.lease_ran_out}
        for model in lost.values():
            model.recover()
        told = call(self.redis, "recover_lost")
        assert dict(zip(told[::2], told[1::2], strict=True)) == {
            job_id: model.status for job_id, model in lost.items()
        }
        assert times == 1 or call(self.redis, "recover_lost") == []

    @rule(times=st.integers(1, 2))
    def janitor_expires(self, times: int) -> None:
        late = {job_id: model for job_id, model in self.models.items() if model.starts_by == "late"}
        for model in late.values():
            model.end(Status.EXPIRED)
        assert set(call(self.redis, "expire_late")) == set(late)
        assert times == 1 or call(self.redis, "expire_late") == []

    @rule()
    def forgettable_are_told(self) -> None:
        told = call(self.redis, "forgettable")
        assert dict(zip(told[::2], told[1::2], strict=True)) == {
            job_id: model.new.tenant for job_id, model in self.models.items() if model.forgettable
        }

    @invariant()
    def records_are_as_they_should_be(self) -> None:
        with self.redis.pipeline() as pipe:
            for job_id in self.models:
                pipe.hgetall(key("job", job_id))
                pipe.xrange(key("events", job_id))
            answers = pipe.execute()
        for model, record, events in zip(self.models.values(), answers[::2], answers[1::2], strict=True):
            kinds = [fields["event"] for _, fields in events]
            assert len(kinds) == model.seq == int(record["seq"])
            assert kinds.count("completed") == model.status.is_final
            assert not model.status.is_final or kinds[-1] == "completed"
            assert (record["status"], int(record["attempt"])) == (model.status, model.attempt)
            assert model.attempt <= MAX_ATTEMPTS
            assert record.get("lease") == model.lease
            assert record.get("checkpoint") == model.checkpoint
            if model.status.is_final:
                model.sealed = model.sealed or record
                assert record == model.sealed, "a final record never changes"

    @invariant()
    def jobs_read_as_they_should(self) -> None:
        for tenant in TENANTS:
            jobs, more = self.queue.find(tenant, limit=100)
            models = [model for model in self.models.values() if model.new.tenant == tenant]
            assert not more
            assert {job.id for job in jobs} == {model.new.id for model in models}
            for job in jobs:
                model = self.models[job.id]
                assert (job.queue_position is not None) == (model.status == Status.QUEUED)
                assert (job.error.code if job.error else None) == model.code
                assert len(job.outputs) == (model.status == Status.SUCCEEDED)
                assert bool(job.cancel_requested_at) == model.cancel_requested

    @invariant()
    def indexes_agree_with_the_records(self) -> None:
        def ids(promise: Callable[[Model], bool]) -> set[str]:
            return {job_id for job_id, model in self.models.items() if promise(model)}

        expected = {
            "queued": ids(lambda model: model.status == Status.QUEUED),
            "running": ids(lambda model: model.status == Status.RUNNING),
            "final": ids(lambda model: model.status.is_final),
            "start_by": ids(lambda model: model.starts_by is not None),
        }
        for tenant in TENANTS:
            of_tenant = {job_id for job_id, model in self.models.items() if model.new.tenant == tenant}
            expected[f"jobs:{tenant}"] = of_tenant
            for status in Status:
                of_status = {job_id for job_id in of_tenant if self.models[job_id].status == status}
                expected[f"jobs:{tenant}:{status}"] = of_status
        for place in range(len(TYPES) * len(PRIORITIES)):
            lanes = {
                tenant: {model.new.id for model in self.models.values() if model.waits_in(tenant, place)}
                for tenant in TENANTS
            }
            expected |= {f"waiting:{place}:{tenant}": lane for tenant, lane in lanes.items()}
            expected[f"tenants:{place}"] = {tenant for tenant, lane in lanes.items() if lane}
        with self.redis.pipeline() as pipe:
            for name in expected:
                pipe.zrange(key(name), 0, -1)
            found = pipe.execute()
        for name, members in zip(expected, found, strict=True):
            assert set(members) == expected[name], name
        assert self.queue.counts() == {"queued": len(found[0]), "running": len(found[1])}
        ranks = [self.models[job_id].rank for job_id in found[0]]
        assert ranks == sorted(ranks), "a higher priority goes first"
        for job_type in TYPES:
            line = [job_id for job_id in found[0] if self.models[job_id].new.type == job_type]
            order = sorted(line, key=lambda job_id: self.queue.get(job_id).queue_position or 0)
            assert [self.queue.get(job_id).queue_position for job_id in order] == list(range(len(order)))
            assert call(self.redis, "next", first_rank=first_rank(job_type)) == (order[0] if order else None)
            assert call(self.redis, "waiting", first_rank=first_rank(job_type)) == len(line)
            assert call(self.redis, "first_waiting", first_rank=first_rank(job_type), count=2) == line[:2]

    @invariant()
    def webhooks_hear_of_each_change_once(self) -> None:
        for job_id, model in self.models.items():
            ids = self.redis.lrange(key("deliveries", job_id), 0, -1)
            events = [self.redis.hget(key("delivery", delivery), "event") for delivery in ids]
            assert events == (model.told if model.new.webhook else [])

    @invariant()
    def nothing_else_is_kept(self) -> None:
        """What a deleted job leaves is its Idempotency-Key, no more."""
        records = {key(kind, job_id) for kind in ("job", "events") for job_id in self.models}
        for job_id in self.models:
            for delivery in self.redis.lrange(key("deliveries", job_id), 0, -1):
                records |= {key("delivery", delivery), key("snapshot", delivery), key("deliveries", job_id)}
        records |= {key("idempotency", *pair) for pair in self.remembered}
        shared = ("queued", "running", "final", "start_by", "untidy", "destinations", "turn", "served")
        allowed = records | {key(name) for name in shared} | {key("outbox", WEBHOOK.destination)}
        indexes = tuple(key(name, "") for name in ("jobs", "waiting", "tenants"))
        kept = set(self.redis.scan_iter(key("*"), count=1000))
        assert records <= kept
        assert {name for name in kept - allowed if not name.startswith(indexes)} == set()


def _tried(act: Callable[[], object]) -> object:
    """What it returns, or the type of what it raises."""
    try:
        return act()
    except (LeaseLost, QueueFull, TenantQueueFull, IdempotencyConflict) as error:
        return type(error)


def test_the_record_does_what_its_model_does(redis_server: RedisServer) -> None:
    class Machine(RecordMachine):
        url = redis_server.url

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=50,
            stateful_step_count=40,
            deadline=None,
            database=None,
            derandomize=True,
            print_blob=True,
        ),
    )
