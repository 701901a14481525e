"""Several jobs at once in one worker: each in a thread, and others join while there is room."""

import contextvars
import threading
from collections.abc import Callable
from typing import Protocol

import redis
import structlog

from jobs.queue import JobQueue
from jobs.record.lease import Lease
from jobs.record.record import Job, JobMissing
from workers.runner.attempt import Attempts
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 0.25
"""Seconds between two looks for a waiting job, while there is room for one."""


class Grouping(Protocol):
    """Work that knows which jobs go together."""

    def goes_with(self, job: Job, others: list[Job]) -> bool:
        """Whether a job may run beside these, of which there is at least one."""


def run_job_of(
    settings: WorkerSettings, attempts: Attempts, work: Grouping, drain: threading.Event
) -> Callable[[str], None]:
    """What a worker does with a ticket, as its settings have it.

    Args:
        drain: set when this worker is to stop; the running jobs are handed back.
    """
    if settings.jobs_at_once == 1:
        return attempts.run_job
    queue = JobQueue(settings, patience_s=settings.redis_patience_s)
    return ConcurrentJobs(attempts, work, queue, at_once=settings.jobs_at_once, drain=drain).run_job


class ConcurrentJobs:
    """Runs up to so many jobs at once.

    A job joins when it is its turn and it goes with those that run. If it does not, nobody joins: those that
    run come to their end, and it is next. So no job is overtaken, and none waits for ever behind others that
    go together.
    """

    def __init__(
        self, attempts: Attempts, work: Grouping, queue: JobQueue, *, at_once: int, drain: threading.Event
    ) -> None:
        self._attempts, self._work, self._queue = attempts, work, queue
        self._at_once, self._drain = at_once, drain
        self._running: dict[str, Job] = {}
        self._ended = threading.Event()

    def run_job(self, ticket: str) -> None:
        """As `Attempts.run_job`, and those that join: returns when none runs any more."""
        lease = self._attempts.take(ticket)
        if lease is None:
            return
        self._start(lease)
        while self._running:
            if len(self._running) < self._at_once and not self._drain.is_set():
                self._look()
            self._ended.wait(LOOK_EVERY_S)
            self._ended.clear()

    def _look(self) -> None:
        try:
            lease = self._attempts.take("", accepts=self._goes_along)
        except redis.RedisError as error:
            log.warning("cannot look for more jobs", error=type(error).__name__)
            return
        if lease is not None:
            self._start(lease)
            self._ended.set()  # there may be more

    def _goes_along(self, job_id: str) -> bool:
        try:
            return self._work.goes_with(self._queue.get(job_id), list(self._running.values()))
        except JobMissing:
            return False

    def _start(self, lease: Lease) -> None:
        try:
            self._running[lease.job_id] = self._queue.get(lease.job_id)
        except JobMissing:
            return  # deleted; nobody waits for it
        context = contextvars.copy_context()  # what log lines say of this worker
        threading.Thread(target=context.run, args=(self._run, lease), name=lease.job_id, daemon=True).start()

    def _run(self, lease: Lease) -> None:
        try:
            self._attempts.run(lease)
        except Exception:
            log.exception("an attempt broke off", job_id=lease.job_id)
        finally:
            self._running.pop(lease.job_id, None)
            self._ended.set()
