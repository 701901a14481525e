"""The queue as the API sees it: create, read, list, cancel and delete jobs, and tell RQ which to run."""

import contextlib
import json
import os
import time
from base64 import b32hexencode
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import redis
from rq import Queue
from rq.serializers import JSONSerializer

from jobs.filenames import attempt_files
from jobs.index_request import IndexRequest, archive_keys
from jobs.record.priorities import TYPES, JobType, rank, ticket_queue
from jobs.record.record import Job, JobMissing, Output, Status, Webhook, call, from_hash, key
from jobs.settings import JobSettings
from models.requests.request import GenerationRequest
from storage.blobs import Store
from storage.redis import connect, connect_rq

RUN_JOB = "run_job"
"""The one function a worker runs, by name: workers look it up in a list, they import nothing for it."""


class QueueFull(RuntimeError):
    """As many jobs wait as may."""


class TenantQueueFull(RuntimeError):
    """As many jobs of one key wait as may."""


class IdempotencyConflict(ValueError):
    """The Idempotency-Key was used for another request."""


class JobNotFinal(RuntimeError):
    """Only a final job can be deleted."""


@dataclass(frozen=True)
class NewJob:
    """What a client asks for, checked and complete."""

    id: str  # from `new_id`
    request: GenerationRequest | IndexRequest
    tenant: str = ""  # whose job it is; "" if keys are off
    type: JobType = "draw"
    priority: Literal["high", "normal", "low"] = "normal"
    inputs: tuple[Output, ...] = ()
    metadata: Mapping[str, str] | None = None
    webhook: Webhook | None = None
    start_timeout_s: float | None = None  # it expires if nobody starts it in time
    run_timeout_s: float | None = None  # else as the settings say


@dataclass(frozen=True)
class Idempotency:
    """How a repeated request is recognized, and what it is answered."""

    key: str
    fingerprint: str  # hash of the request
    answer: str  # the first answer's body


@dataclass(frozen=True)
class WorkerState:
    """A worker as it last showed itself."""

    name: str
    state: str  # loading | idle | busy | failed
    detail: dict[str, Any]


def new_id() -> str:
    """A new job's id: `job_` and a UUIDv7 in 26 base32hex digits, so that ids sort by time.

    RFC 9562, 5.7, with 12 bits for the fraction of the millisecond (6.2, method 3): of two jobs of one
    millisecond the first sorts, and so starts, first.
    """
    milliseconds, rest_ns = divmod(time.time_ns(), 1_000_000)
    fraction = rest_ns * 4096 // 1_000_000
    chance = int.from_bytes(os.urandom(8)) & ((1 << 62) - 1)
    bits = (milliseconds << 80) | (7 << 76) | (fraction << 64) | (2 << 62) | chance
    return "job_" + b32hexencode(bits.to_bytes(16)).decode().rstrip("=").lower()


def draft(new: NewJob) -> Job:
    """The job as it will be the moment after `create`."""
    return Job(
        id=new.id,
        tenant=new.tenant,
        type=new.type,
        status=Status.QUEUED,
        seq=1,
        priority=new.priority,
        request=new.request,
        attempt=0,
        created_at=datetime.now(UTC),
        inputs=new.inputs,
        metadata=dict(new.metadata or {}),
    )


class JobQueue:
    """All that is done with jobs from outside a worker. Thread-safe; its calls block."""

    def __init__(self, settings: JobSettings, *, patience_s: float = 1.0) -> None:
        self._settings = settings
        self._redis = connect(settings.redis_url, patience_s=patience_s)
        self._rq = {
            job_type: open_rq(ticket_queue(job_type), connect_rq(settings.redis_url, patience_s=patience_s))
            for job_type in TYPES
        }

    def create(self, new: NewJob, idempotency: Idempotency | None = None) -> str | None:
        """Queue a job; if the same request was already made, nothing happens and its first answer comes back.

        Raises:
            QueueFull, TenantQueueFull: too many wait.
            IdempotencyConflict: its key stands for another request.
        """
        settings = self._settings
        fields: dict[str, str | int] = {
            "type": new.type,
            "priority": new.priority,
            "request": new.request.model_dump_json(),
            "inputs": json.dumps([asdict(item) for item in new.inputs]),
            "metadata": json.dumps(dict(new.metadata or {})),
            "created_ms": time.time_ns() // 1_000_000,
            "retention_ms": round(settings.retention_s * 1000),
            "max_attempts": settings.max_attempts,
            "run_timeout_ms": round((new.run_timeout_s or settings.longest_run_s(new.type)) * 1000),
        }
        if new.start_timeout_s is not None:
            fields["start_timeout_ms"] = round(new.start_timeout_s * 1000)
        if new.webhook is not None:
            fields["webhook"] = json.dumps(asdict(new.webhook))
        outcome, *rest = call(
            self._redis,
            "create",
            id=new.id,
            tenant=new.tenant,
            fields={name: str(value) for name, value in fields.items()},
            rank=rank(new.type, new.priority),
            max_queued=settings.max_queued,
            max_queued_of_tenant=settings.max_queued_per_key,
            idempotency=idempotency
            and {**asdict(idempotency), "ttl_ms": round(settings.idempotency_ttl_s * 1000)},
        )
        match outcome:
            case "replayed":
                return str(rest[0])
            case "conflict":
                raise IdempotencyConflict("this Idempotency-Key was used for another request")
            case "full":
                raise QueueFull(f"{settings.max_queued} jobs wait already")
            case "tenant_full":
                raise TenantQueueFull(f"{settings.max_queued_per_key} jobs of this key wait already")
        self.dispatch(new.id, new.type)
        return None

    def dispatch(self, job_id: str, job_type: JobType) -> None:
        """Give RQ a ticket for a job that waits.

        One too many does no harm: the worker that takes it finds no job.
        If Redis cannot be reached the janitor does this later.
        """
        with contextlib.suppress(redis.RedisError):
            self._rq[job_type].enqueue_call(
                RUN_JOB,
                args=(job_id,),
                timeout=-1,
                result_ttl=0,
                failure_ttl=3600,
                description=job_id,
            )

    def tidy(self, job_id: str, store: Store) -> None:
        """Delete what a final job's record does not name: checkpoints, archives, files of lost attempts.

        While a job goes on it does nothing: whoever has it may need the checkpoint and the finished images.

        Raises:
            JobMissing: there is none of that id.
            storage.blobs.StoreUnavailable: some are left; it can be done again.
        """
        job = self.get(job_id)
        if not job.status.is_final:
            return
        preview = (job.progress.preview,) if job.progress and job.progress.preview else ()
        named = {item.key for item in (*job.outputs, *preview)}
        if isinstance(job.request, IndexRequest) and job.request.archive:
            for part in archive_keys(job_id, job.request.archive):
                store.delete(part)
        names = attempt_files(job.request)
        for token in job.tokens:
            keys = {f"{job_id}/{token}/{name}" for name in names}
            for unnamed in keys - named if keys & named else {f"{job_id}/{token}"}:
                store.delete(unnamed)
        call(self._redis, "tidied", id=job_id)

    def untidy(self, age_s: float) -> list[str]:
        """Ids of jobs that have been final for so long and were not tidied."""
        return list(call(self._redis, "untidy", age_ms=round(age_s * 1000)))

    def get(self, job_id: str, tenant: str | None = None) -> Job:
        """The job as it stands; None is every tenant's.

        Raises:
            JobMissing: there is none of that id, or not of that tenant.
        """
        return self._read([job_id], tenant)[0]

    def find(
        self, tenant: str, *, status: Status | None = None, limit: int = 20, after: str | None = None
    ) -> tuple[list[Job], bool]:
        """A tenant's jobs, newest first, and whether there are more; `after` is the last id of the last page.

        Raises:
            JobMissing: `after` is not a job of this tenant.
        """
        index = key("jobs", tenant) + (f":{status}" if status else "")
        start = 0
        if after is not None:
            created_ms = self._redis.zscore(key("jobs", tenant), after)
            if created_ms is None:
                raise JobMissing(after)
            # counted, not looked up: the job may have left this status since
            same = self._redis.zrangebyscore(index, created_ms, created_ms)
            newer = self._redis.zcount(index, f"({created_ms}", "+inf")
            start = newer + sum(other >= after for other in same)
        ids = self._redis.zrange(index, start, start + limit, desc=True)
        jobs = self._read_existing(ids[:limit])
        return jobs, len(ids) > limit

    def cancel(self, job_id: str, tenant: str) -> str:
        """Ask for a job to stop -> `canceled` (it waited), `requested` (it runs), or the final status it has.

        Raises:
            JobMissing: there is none of that id, or not of that tenant.
        """
        outcome = str(call(self._redis, "cancel", id=job_id, tenant=tenant))
        if outcome == "missing":
            raise JobMissing(job_id)
        return outcome

    def delete(self, job_id: str, tenant: str) -> None:
        """Forget a final job. Its files are the caller's to delete.

        Raises:
            JobMissing: there is none of that id, or not of that tenant. JobNotFinal: it waits or runs.
        """
        match call(self._redis, "delete", id=job_id, tenant=tenant):
            case "missing":
                raise JobMissing(job_id)
            case "deleted":
                return
            case status:
                raise JobNotFinal(f"the job is {status}; cancel it first")

    def counts(self) -> dict[str, int]:
        """How many jobs wait and run, all tenants together."""
        queued, running = (self._redis.zcard(key(name)) for name in ("queued", "running"))
        return {"queued": queued, "running": running}

    def workers(self) -> list[WorkerState]:
        """The workers that showed themselves within their time."""
        names = self._redis.zrange(key("workers"), 0, -1)
        states = self._redis.mget([key("worker", name) for name in names]) if names else []
        return [
            WorkerState(name, details.pop("state"), details)
            for name, text in zip(names, states, strict=True)
            if text and (details := json.loads(text))
        ]

    def ping(self) -> None:
        """Raises redis.RedisError if the server does not answer."""
        self._redis.ping()

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()
        for queue in self._rq.values():
            queue.connection.close()

    def _read(self, ids: list[str], tenant: str | None) -> list[Job]:
        jobs = self._read_existing(ids)
        if len(jobs) < len(ids) or any(tenant is not None and job.tenant != tenant for job in jobs):
            raise JobMissing(", ".join(ids))
        return jobs

    def _read_existing(self, ids: list[str]) -> list[Job]:
        with self._redis.pipeline(transaction=True) as pipe:
            for job_id in ids:
                pipe.hgetall(key("job", job_id))
                call(pipe, "position", id=job_id)
            answers = pipe.execute()
        return [
            from_hash(fields, position)
            for fields, position in zip(answers[::2], answers[1::2], strict=True)
            if fields
        ]


def open_rq(name: str, connection: redis.Redis) -> Queue:
    """A queue of RQ; jobs on it are JSON, never pickles."""
    return Queue(name, connection=connection, serializer=JSONSerializer)
