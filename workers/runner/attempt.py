"""One attempt at a job: take its lease, do the work, and write the end of it, whatever that is."""

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn, Protocol

import redis
import structlog

from jobs.queue import JobQueue
from jobs.record.lease import Lease, LeaseLost
from jobs.record.priorities import JobType
from jobs.record.record import Frame, Job, JobError, JobMissing, Output, Progress, Status
from models.requests.generator import GenerationError
from storage.blobs import KeyMissing, StorageFull, Store, StoreUnavailable
from storage.redis import connect
from workers import device
from workers.runner.heartbeat import Heartbeat
from workers.runner.job_errors import JobFailed
from workers.runner.pacing import Canceled, Drained, Intervals, Report, Signals, TimedOut
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)

DEVICE_LOST = 3  # exit code
HARD_GRACE_S = 30  # a step that hangs for so long past the time limit takes the process with it


class Work(Protocol):
    """What is done with jobs of one type."""

    type: JobType
    store: Store

    def needs_low_memory(self, job: Job) -> bool:
        """Whether the job fits into the memory only with less: the kernel would kill a worker on a CPU."""

    def run(
        self,
        job: Job,
        folder: str,
        report: Report,
        signals: Signals,
        intervals: Intervals,
        *,
        low_memory: bool,
    ) -> tuple[Output, ...]:
        """Do a job; returns what is to be published.

        Args:
            folder: where this attempt keeps its files in the store.
            low_memory: use less device memory and more time.

        Raises:
            workers.runner.pacing.Canceled, Drained, TimedOut: it stopped between two steps.
        """


class Attempts:
    """Runs jobs.

    Args:
        drain: set when this worker is to stop; the running job is handed back.
    """

    def __init__(
        self, settings: WorkerSettings, work: Work, heartbeat: Heartbeat, name: str, drain: threading.Event
    ) -> None:
        self._settings, self._work, self._heartbeat, self._name, self._drain = (
            settings,
            work,
            heartbeat,
            name,
            drain,
        )
        self._limits = HardLimits()
        self._queue = JobQueue(settings, patience_s=settings.redis_patience_s)
        self._retrying = connect(settings.redis_url, patience_s=settings.redis_patience_s)
        self._fail_fast = connect(settings.redis_url, patience_s=0.5)

    def run_job(self, ticket: str) -> None:
        """Run the job whose turn it is; its record then says how it ended.

        Never raises for what happens to one job, so that RQ has nothing to retry.

        Args:
            ticket: a job that RQ was told of. There is one for each that waits; whose turn it is may differ.
        """
        lease = self.take(ticket)
        if lease is not None:
            self.run(lease)

    def take(self, ticket: str, accepts: Callable[[str], bool] = lambda job_id: True) -> Lease | None:
        """The lease of the job whose turn it is; none: no job waits, or that one is not accepted."""
        lease = Lease.start_next(
            self._retrying, self._name, self._settings.lease_s, self._work.type, accepts=accepts
        )
        if lease is None and ticket:
            log.info("nothing waits", ticket=ticket)
        return lease

    def run(self, lease: Lease) -> None:
        """Run a job that was taken. Several threads may, each with a job of its own."""
        with structlog.contextvars.bound_contextvars(job_id=lease.job_id, attempt=lease.attempt):
            log.info("job started")
            started_s = time.monotonic()
            ended = self._attempt(lease)
            log.info("job ended", how=ended, seconds=round(time.monotonic() - started_s, 3))

    def _attempt(self, lease: Lease) -> str:
        signals = Signals(drain=self._drain)
        self._heartbeat.hold(lease, signals)
        try:
            return self._carry_out(lease, signals)
        except (LeaseLost, JobMissing):
            self._tidy(lease)
            return "lease lost"
        finally:
            self._limits.release(lease.token)
            self._heartbeat.release(lease)

    def _carry_out(self, lease: Lease, signals: Signals) -> str:
        def report(
            *,
            progress: Progress | None = None,
            previewed: bool = False,
            checkpoint: str = "",
            frame: Frame | None = None,
        ) -> None:
            try:
                if fail_fast.report(
                    progress=progress, previewed=previewed, checkpoint=checkpoint, frame=frame
                ):
                    signals.cancel.set()
            except redis.RedisError as error:
                # the work goes on: what matters is written at its end, with patience
                log.warning("progress not told", error=type(error).__name__)

        fail_fast = replace(lease, connection=self._fail_fast)
        try:
            job = self._queue.get(lease.job_id)
            outputs = self._run(job, lease, report, signals)
        except Drained:
            self._insist(lease.hand_back)
            self._queue.dispatch(job.id, job.type)
            return "handed back"
        except Canceled:
            return self._end(lease, Status.CANCELED)
        except (LeaseLost, JobMissing):
            raise
        except Exception as error:
            if device.is_lost(error):
                self._leave(lease, job)
            return self._end(lease, Status.FAILED, _why(error))
        return self._end(lease, Status.SUCCEEDED, outputs=outputs)

    def _run(self, job: Job, lease: Lease, report: Report, signals: Signals) -> tuple[Output, ...]:
        folder, intervals = f"{job.id}/{lease.token}", self._intervals(job)
        left_s = max(0.0, intervals.run_timeout_s - job.ran_s)
        self._limits.hold(lease.token, left_s + HARD_GRACE_S)
        low_memory = self._work.needs_low_memory(job)
        try:
            return self._work.run(job, folder, report, signals, intervals, low_memory=low_memory)
        except Exception as error:
            if low_memory or not device.is_out_of_memory(error):
                raise
        # out of the handler: what the error remembers of its way holds the memory that was too little
        log.warning("out of memory on the device, trying again with less")
        device.free_memory()
        job = self._queue.get(job.id)  # it may have a checkpoint by now
        return self._work.run(job, folder, report, signals, intervals, low_memory=True)

    def _leave(self, lease: Lease, job: Job) -> NoReturn:
        """The device is lost to this process: another takes the job, and our supervisor starts us again."""
        log.exception("the device is lost")
        self._insist(lease.give_up)
        if self._queue.get(job.id).status == Status.QUEUED:
            self._queue.dispatch(job.id, job.type)
        self._heartbeat.stop()
        os._exit(DEVICE_LOST)

    def _intervals(self, job: Job) -> Intervals:
        settings, longest_s = self._settings, self._settings.longest_run_s(job.type)
        return Intervals(
            settings.progress_every_s,
            settings.preview_every,
            settings.checkpoint_every_s,
            min(longest_s, job.run_timeout_s or longest_s),
        )

    def _end(
        self, lease: Lease, status: Status, error: JobError | None = None, outputs: tuple[Output, ...] = ()
    ) -> str:
        self._insist(lambda: lease.finish(status, outputs=outputs, error=error))
        self._tidy(lease)
        return f"{status}: {error.code}" if error else status

    def _insist(self, write: Callable[[], None]) -> None:
        """Write the end of an attempt, however long Redis refuses: full, read-only or loading."""
        deadline_s = time.monotonic() + self._settings.redis_patience_s
        while True:
            try:
                return write()
            except redis.RedisError as error:
                if time.monotonic() > deadline_s:
                    raise
                log.warning("redis refuses", error=type(error).__name__)
                time.sleep(1)

    def _tidy(self, lease: Lease) -> None:
        try:
            self._queue.tidy(lease.job_id, self._work.store)
        except JobMissing:
            self._discard(f"{lease.job_id}/{lease.token}")  # nobody else knows of it
        except (redis.RedisError, StoreUnavailable):
            return  # the janitor does it

    def _discard(self, prefix: str) -> None:
        try:
            self._work.store.delete(prefix)
        except StoreUnavailable:
            log.warning("files left behind", prefix=prefix)  # they go with the job


class HardLimits:
    """Ends the process at the first of several times, however it hangs. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends_s: dict[str, float] = {}

    def hold(self, name: str, seconds: float) -> None:
        """End the process in so many seconds, unless the name is released before."""
        with self._lock:
            self._ends_s[name] = time.monotonic() + seconds
            self._arm()

    def release(self, name: str) -> None:
        """Cancel the deadline registered under `name`."""
        with self._lock:
            self._ends_s.pop(name, None)
            self._arm()

    def _arm(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        if self._ends_s:
            left_s = max(0.001, min(self._ends_s.values()) - time.monotonic())
            faulthandler.dump_traceback_later(left_s, exit=True)


def _why(error: Exception) -> JobError:
    """The error that the client sees: in words of ours."""
    match error:
        case TimedOut():
            return JobError("timeout", str(error))
        case JobFailed():
            return JobError(error.code, str(error), error.retryable)
        case GenerationError():
            return JobError("generation_failed", str(error))
        case KeyMissing():
            return JobError("input_missing", "an image of the request is no longer kept")
        case StorageFull():
            return JobError("storage_full", "there is no room left for the images", retryable=True)
        case StoreUnavailable():
            return JobError("storage_unavailable", "the store cannot be reached", retryable=True)
    if device.is_out_of_memory(error):
        return JobError("cuda_oom", "the image is too large for the device's memory", retryable=True)
    log.error("job failed", exc_info=error)
    return JobError("internal", "internal error", retryable=True)
