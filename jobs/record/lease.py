"""A worker's hold on the job it runs: what it may say of it, until the job is final or the lease is lost."""

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import redis

from jobs.record.priorities import JobType, first_rank
from jobs.record.record import Frame, JobError, Output, Progress, Status, call

TRIES = 100


class LeaseLost(RuntimeError):
    """The job is somebody else's or final: touch nothing of it."""


@dataclass(frozen=True)
class Lease:
    """The right to run one attempt of a job. Thread-safe; its calls block."""

    connection: redis.Redis
    job_id: str
    token: str
    attempt: int
    seconds: float

    @staticmethod
    def start(connection: redis.Redis, job_id: str, worker: str, seconds: float) -> "Lease | str":
        """Take a job that waits or whose lease ran out; else why not: leased, missing or a final status."""
        token = secrets.token_hex(6)
        outcome = call(connection, "start", id=job_id, token=token, worker=worker, lease_ms=_ms(seconds))
        if isinstance(outcome, str):
            return outcome
        return Lease(connection, job_id, token, int(outcome), seconds)

    @staticmethod
    def start_next(
        connection: redis.Redis,
        worker: str,
        seconds: float,
        job_type: JobType = "draw",
        *,
        accepts: Callable[[str], bool] = lambda job_id: True,
    ) -> "Lease | None":
        """Take the job of that type whose turn it is, if one waits.

        Args:
            accepts: looks at its id; where it says no, none is taken.
        """
        for _ in range(TRIES):
            job_id = call(connection, "next", first_rank=first_rank(job_type))
            if job_id is None or not accepts(job_id):
                return None
            lease = Lease.start(connection, job_id, worker, seconds)
            if isinstance(lease, Lease):
                return lease  # else another worker was quicker, or the job's time was up
        return None

    def report(
        self,
        *,
        progress: Progress | None = None,
        previewed: bool = False,
        checkpoint: str = "",
        frame: Frame | None = None,
    ) -> bool:
        """Renew the lease, and tell how far the job is -> whether a client asked for it to stop.

        Args:
            previewed: tell the clients that `progress.preview` is new.
            checkpoint: key in the store of the checkpoint to go on from.
            frame: of a film, to tell the clients of.

        Raises:
            LeaseLost: nothing was written.
        """
        outcome = call(
            self.connection,
            "report",
            id=self.job_id,
            token=self.token,
            lease_ms=_ms(self.seconds),
            progress=_json(progress) if progress else None,
            preview=_json(progress.preview) if progress and previewed else None,
            checkpoint=checkpoint or None,
            frame=_json(frame) if frame else None,
        )
        if outcome == "lost":
            raise LeaseLost(self.job_id)
        return bool(outcome == "cancel")

    def finish(
        self, status: Status, *, outputs: Sequence[Output] = (), error: JobError | None = None
    ) -> None:
        """Write the final state, once.

        Raises:
            LeaseLost: nothing was written.
        """
        listed = json.dumps([asdict(output) for output in outputs])
        answer = call(
            self.connection,
            "finish",
            id=self.job_id,
            token=self.token,
            status=status,
            outputs=listed,
            error=_json(error) if error else "",
        )
        if not answer:
            raise LeaseLost(self.job_id)

    def give_up(self) -> None:
        """Let another worker try: the job is queued again, or fails if it has no attempt left.

        Raises:
            LeaseLost: nothing was written.
        """
        if not call(self.connection, "give_up", id=self.job_id, token=self.token):
            raise LeaseLost(self.job_id)

    def hand_back(self) -> None:
        """Put the job back to the front of the queue; this attempt does not count.

        Raises:
            LeaseLost: nothing was written.
        """
        if not call(self.connection, "hand_back", id=self.job_id, token=self.token):
            raise LeaseLost(self.job_id)


def _json(value: Any) -> str:
    return json.dumps(asdict(value))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
