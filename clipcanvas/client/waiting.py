"""Waiting for a job: until when, and what its end means."""

import time
from typing import TypeVar

from clipcanvas.client.endpoints import MAX_WAIT_S
from clipcanvas.client.errors import JobCanceled, JobExpired, JobFailed, WaitTimeout
from clipcanvas.client.results import Job

AnyJob = TypeVar("AnyJob", bound=Job)


def successful(job: AnyJob) -> AnyJob:
    """The job itself, if it succeeded.

    Raises:
        JobFailed, JobCanceled, JobExpired: it did not.
    """
    if job.status == "failed":
        raise JobFailed(job)
    if job.status == "canceled":
        raise JobCanceled(job)
    if job.status == "expired":
        raise JobExpired(job)
    return job


class Deadline:
    """When a caller gives up, if ever."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._end = None if timeout_s is None else time.monotonic() + timeout_s

    def next_wait_s(self) -> float:
        """For how long to ask the service to wait."""
        return MAX_WAIT_S if self._end is None else max(0.0, min(MAX_WAIT_S, self._end - time.monotonic()))

    def check(self, job: Job) -> None:
        """Raises WaitTimeout if it is too late."""
        if self._end is not None and self._timeout_s is not None and time.monotonic() >= self._end:
            raise WaitTimeout(job, self._timeout_s)
