"""The record of a job: its states, every Redis key, and the script through which alone a record changes.

    queued ──start──> running ──> succeeded | failed | canceled        final states never change
      │  ^               │
      │  └── handed back ┘  (the worker drains, or its lease ran out)
      └────> canceled | expired        (expired: `start_timeout_s` passed before a first start)

A running job belongs to whoever holds its lease: a token that each of the holder's calls must show. `seq`
rises with each change; the event stream tells each change once. Times are the clock of the Redis server, in
milliseconds. Key names are made inside the script, so this needs one Redis server, not a cluster.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar, cast

import redis

from jobs.filenames import FRAMES, is_frame
from jobs.index_request import IndexRequest
from jobs.record.priorities import PRIORITIES, TYPES, JobType
from models.requests.request import GenerationRequest

Part = TypeVar("Part", bound="Output | Progress | Webhook | JobError")

PREFIX = "clipcanvas:"
PARTS = ("common", "outbox", "fairness", "record")  # of the script, in order
EVENTS_KEPT = 1000  # of a job, the last
EVENTS_KEPT_S = 3600.0  # after the end of the job
DELIVERIES_AT_ONCE = 2  # webhook requests that one receiver has to answer at once
# job:{id}                     hash, the record
# events:{id}                  stream, what happened to it
# jobs:{tenant}[:{status}]     sorted sets by time of creation, ids of a tenant's jobs, all or of one status
# queued                       sorted set by priority and time of creation: all jobs that wait
# waiting:{rank}:{tenant}      sorted set by time of creation: a tenant's jobs of one rank (turns.lua)
# tenants:{rank}               sorted set by their last turn: tenants that have such jobs
# served, turn                 hash of each tenant's last turn; the number of the last turn of all
# start_by                     sorted set by the time when a job that was never started expires
# running                      sorted set by the end of the lease
# final                        sorted set by the time when the job may be forgotten
# untidy                       sorted set by time: final jobs whose attempts may have left files behind
# idempotency:{tenant}:{key}   hash of fingerprint and first answer
# workers                      sorted set by time last seen; worker:{name} says what it does
#
# delivery:{id}                hash, one event for a webhook: what it is, how its attempts ended
# snapshot:{id}                the job's record as it was at that event
# deliveries:{job}             list, ids of a job's deliveries; they are forgotten with it
# outbox:{destination}         sorted set by the next attempt: deliveries to one host and port
# sending:{destination}        sorted set by the end of the claim: those that are under way
# destinations                 sorted set by the time when a destination is next worth a look
# claim:{token}                list, ids of what a sender took


class Status(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  #: waits for a worker
    RUNNING = "running"  #: a worker holds its lease
    SUCCEEDED = "succeeded"  #: its outputs are kept
    FAILED = "failed"  #: `error` says why
    CANCELED = "canceled"  #: a client asked for it
    EXPIRED = "expired"  #: nobody started it in time

    @property
    def is_final(self) -> bool:
        """Whether it never changes any more."""
        return self not in (Status.QUEUED, Status.RUNNING)


class JobMissing(LookupError):
    """No job has that id, or it is another tenant's."""


@dataclass(frozen=True)
class Output:
    """A file of a job that a client may fetch by name."""

    name: str  # image-0.png
    key: str  # in the store
    content_type: str
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    clip_score: float | None = None
    held_out_score: float | None = None
    kind: str = "image"  # | sidecar | thumbnail | contact_sheet | video | frames | svg | preview | report


@dataclass(frozen=True)
class Frame:
    """A frame of a film, kept while the job runs."""

    name: str  # frame-0-00012.png
    image: int
    frame: int  # 0 is the first
    step: int  # of that image


@dataclass(frozen=True)
class Progress:
    """How far a running job is, over all of its images."""

    step: int
    steps: int
    loss: float | None = None
    eta_s: float | None = None
    steps_per_s: float | None = None
    preview: Output | None = None
    counts: dict[str, int] | None = None  # of a job that indexes: what became of its images


@dataclass(frozen=True)
class Webhook:
    """Who is to be told what of a job."""

    url: str
    events: tuple[str, ...]
    destination: str  # host:port; few requests at once are made to each


@dataclass(frozen=True)
class JobError:
    """Why a job failed, fit for the client's eyes."""

    code: str
    detail: str
    retryable: bool = False


@dataclass(frozen=True)
class Job:
    """A job at one moment."""

    id: str
    tenant: str
    type: JobType
    status: Status
    seq: int
    priority: str
    request: GenerationRequest | IndexRequest
    attempt: int
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    queue_position: int | None = None  # 0 is next
    progress: Progress | None = None
    inputs: tuple[Output, ...] = ()  # the request's images
    outputs: tuple[Output, ...] = ()
    error: JobError | None = None
    checkpoint: str | None = None  # key in the store
    tokens: tuple[str, ...] = ()  # of all its leases; each has a folder of its own in the store
    metadata: dict[str, str] | None = None
    webhook: Webhook | None = None
    run_timeout_s: float | None = None
    ran_s: float = 0.0  # in the attempts before this one

    @property
    def drawing(self) -> GenerationRequest:
        """The request of a job that draws."""
        assert isinstance(self.request, GenerationRequest)
        return self.request

    @property
    def indexing(self) -> IndexRequest:
        """The request of a job that indexes."""
        assert isinstance(self.request, IndexRequest)
        return self.request

    def file(self, name: str) -> Output | None:
        """The output, preview or input of that name."""
        preview = [self.progress.preview] if self.progress and self.progress.preview else []
        return next((file for file in (*self.outputs, *preview, *self.inputs) if file.name == name), None)

    def frame_keys(self, name: str) -> list[str]:
        """Where in the store a frame of that name may be while the job runs, the newest attempt first."""
        if self.type != "draw" or self.drawing.save.video == "none" or not is_frame(name):
            return []
        return [f"{self.id}/{token}/{FRAMES}/{name}" for token in reversed(self.tokens)]


def from_hash(fields: dict[str, str], queue_position: int | None = None) -> Job:
    """The job that a record's hash describes."""
    progress = json.loads(fields.get("progress") or "null")
    error = json.loads(fields.get("error") or "null")
    return Job(
        id=fields["id"],
        tenant=fields["tenant"],
        type=cast(JobType, fields["type"]),
        status=Status(fields["status"]),
        seq=int(fields["seq"]),
        priority=fields["priority"],
        request=_REQUESTS[fields["type"]].model_validate_json(fields["request"], extra="ignore"),
        attempt=int(fields["attempt"]),
        created_at=moment(fields["created_ms"]) or datetime.fromtimestamp(0, UTC),
        started_at=moment(fields.get("started_ms")),
        finished_at=moment(fields.get("finished_ms")),
        expires_at=moment(fields.get("expires_ms")),
        cancel_requested_at=moment(fields.get("cancel_requested_ms")),
        queue_position=queue_position,
        progress=progress_from(progress) if progress else None,
        inputs=_outputs(fields.get("inputs")),
        outputs=_outputs(fields.get("outputs")),
        error=_known(JobError, error) if error else None,
        checkpoint=fields.get("checkpoint") or None,
        tokens=tuple(fields.get("tokens", "").split()),
        metadata=json.loads(fields.get("metadata") or "{}"),
        webhook=_webhook(fields.get("webhook")),
        run_timeout_s=int(fields["run_timeout_ms"]) / 1000 if "run_timeout_ms" in fields else None,
        ran_s=int(fields.get("ran_ms", 0)) / 1000,
    )


def progress_from(fields: dict[str, Any]) -> Progress:
    """The progress that an event or a record holds as JSON."""
    preview = fields.get("preview")
    return _known(Progress, {**fields, "preview": _known(Output, preview) if preview else None})


def call(connection: redis.Redis, name: str, /, **args: Any) -> Any:
    """Run one function of the script with named arguments; the only way in which records change.

    Args:
        args: as the comment above the function says; a text, a number or a mapping. None is not sent.

    Raises:
        redis.RedisError: nothing changed, or, if the connection was lost, perhaps all of it did.
    """
    given = {name: value for name, value in args.items() if value is not None}
    return connection.register_script(script())(keys=[], args=[name, json.dumps(given, ensure_ascii=False)])


def key(*parts: str) -> str:
    """A key of this project, such as `key("job", id)`."""
    return PREFIX + ":".join(parts)


def moment(milliseconds: str | None) -> datetime | None:
    """The time that a record holds."""
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC) if milliseconds else None


_REQUESTS: dict[str, type[GenerationRequest] | type[IndexRequest]] = {
    "draw": GenerationRequest,
    "index": IndexRequest,
}


def _outputs(text: str | None) -> tuple[Output, ...]:
    items: Iterable[dict[str, Any]] = json.loads(text or "[]")
    return tuple(_known(Output, item) for item in items)


def _webhook(text: str | None) -> Webhook | None:
    if not text:
        return None
    fields = json.loads(text)
    return _known(Webhook, {**fields, "events": tuple(fields["events"])})


def _known(kind: type[Part], given: Mapping[str, Any]) -> Part:
    """That part of a record; what only a newer version knows of it is left out."""
    names = {field.name for field in dataclass_fields(kind)}
    return kind(**{name: value for name, value in given.items() if name in names})


@cache
def script() -> str:
    """The script that changes records: constants, then its parts, each of which may use those before it."""
    folder = files("jobs.record")
    constants = {
        "PREFIX": f"'{PREFIX}'",
        "PRIORITIES": len(PRIORITIES),
        "RANKS": len(PRIORITIES) * len(TYPES),
        "EVENTS_KEPT": EVENTS_KEPT,
        "EVENTS_KEPT_MS": round(EVENTS_KEPT_S * 1000),
        "PER_DESTINATION": DELIVERIES_AT_ONCE,
    }
    parts = [f"local {name} = {value}\n" for name, value in constants.items()]
    parts += [folder.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in PARTS]
    return "".join(parts)
