"""The outbox of webhooks: what senders take from it, and what clients see of it."""

import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

import redis

from jobs.record.record import JobMissing, call, key, moment

WebhookEvent = Literal["job.started", "job.succeeded", "job.failed", "job.canceled", "job.expired"]
State = Literal["pending", "delivered", "failed"]


class DeliveryMissing(LookupError):
    """The job has no delivery of that id."""


@dataclass(frozen=True)
class Delivery:
    """One event that a webhook is told, and how that went so far."""

    id: str  # the same in every attempt
    event: str
    state: State
    attempts: int
    created_at: datetime
    last_at: datetime | None = None
    next_at: datetime | None = None
    last_status: int | None = None  # HTTP; None if there was no answer
    last_error: str | None = None


@dataclass(frozen=True)
class Claimed:
    """A delivery that this sender alone may attempt now."""

    delivery: Delivery
    token: str
    record: dict[str, str]  # the job's at the time of the event, for `jobs.record.from_hash`


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    state: State  # pending: there will be another
    status: int | None = None
    error: str = ""
    wait_s: float = 0.0  # until the next attempt


class Outbox:
    """Deliveries; the script writes them with the change that they tell of. Thread-safe; its calls block."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection

    def deliveries(self, job_id: str, tenant: str) -> list[Delivery]:
        """What a job's webhook is told, the oldest first.

        Raises:
            JobMissing: there is none of that id, or not of that tenant.
        """
        if self._redis.hget(key("job", job_id), "tenant") != tenant:
            raise JobMissing(job_id)
        ids = self._redis.lrange(key("deliveries", job_id), 0, -1)
        return [_delivery(fields) for fields in self._hashes("delivery", ids) if fields]

    def redeliver(self, job_id: str, tenant: str, delivery_id: str) -> Delivery:
        """Send a delivery once more, at once and with all of its attempts, unless that is under way already.

        Raises:
            JobMissing, DeliveryMissing: there is none of that id, or not of that tenant.
        """
        if self._redis.hget(key("job", job_id), "tenant") != tenant:
            raise JobMissing(job_id)
        if not call(self._redis, "redeliver", id=job_id, delivery=delivery_id, token=secrets.token_hex(6)):
            raise DeliveryMissing("the job has no delivery of that id")
        return next(each for each in self.deliveries(job_id, tenant) if each.id == delivery_id)

    def claim(self, count: int, visible_s: float) -> list[Claimed]:
        """Take deliveries that are due, few to one destination, and count the attempt.

        Args:
            count: no more than so many.
            visible_s: others may take those that are not settled by then.
        """
        token = secrets.token_hex(6)
        ids = call(self._redis, "claim", token=token, count=count, visible_ms=_ms(visible_s))
        return [
            Claimed(_delivery(fields), token, record)
            for fields, record in zip(
                self._hashes("delivery", ids), self._hashes("snapshot", ids), strict=True
            )
            if fields  # else its job was deleted meanwhile
        ]

    def settle(self, claimed: Claimed, outcome: Outcome) -> bool:
        """Say how an attempt ended -> False if the delivery is another sender's, or gone, by now."""
        return bool(
            call(
                self._redis,
                "settle",
                id=claimed.delivery.id,
                token=claimed.token,
                state=outcome.state,
                status=outcome.status or "",
                error=outcome.error,
                wait_ms=_ms(outcome.wait_s),
            )
        )

    def lag_s(self) -> float:
        """For how long the delivery that is due first has been; 0 if none is. It grows without senders."""
        first = self._redis.zrange(key("destinations"), 0, 0, withscores=True)
        return max(0.0, time.time() - first[0][1] / 1000) if first else 0.0

    def _hashes(self, kind: str, ids: list[str]) -> list[dict[str, str]]:
        with self._redis.pipeline(transaction=False) as pipe:
            for each in ids:
                pipe.hgetall(key(kind, each))
            hashes: list[dict[str, str]] = pipe.execute()
        return hashes


def _delivery(fields: dict[str, str]) -> Delivery:
    return Delivery(
        id=fields["id"],
        event=fields["event"],
        state=cast(State, fields["state"]),
        attempts=int(fields["attempts"]),
        created_at=moment(fields["created_ms"]) or datetime.fromtimestamp(0, UTC),
        last_at=moment(fields.get("last_ms")),
        next_at=moment(fields.get("next_ms")),
        last_status=int(fields["last_status"]) if fields.get("last_status") else None,
        last_error=fields.get("last_error") or None,
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
