"""When a running job reports progress, keeps a checkpoint and stops: the same for jobs of every type."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from jobs.record.record import Frame, Progress


class Canceled(Exception):
    """A client asked for the job to stop."""


class Drained(Exception):
    """This worker is to stop; the job's checkpoint is kept."""


class TimedOut(Exception):
    """The job took longer than it may, all attempts together."""


@dataclass(frozen=True)
class Intervals:
    """How often a running job reports, in seconds, and how long it may run."""

    progress_every_s: float
    preview_every: int  # steps
    checkpoint_every_s: float
    run_timeout_s: float  # of the job, its earlier attempts included
    max_checkpoint_bytes: int = 256 * 2**20  # a larger one is not kept: the job would start over


@dataclass(frozen=True)
class Signals:
    """Requests to a running job, checked between two steps."""

    cancel: threading.Event = field(default_factory=threading.Event)
    drain: threading.Event = field(default_factory=threading.Event)


class Report(Protocol):
    """Where progress goes. Its calls never wait long and never fail for want of a connection."""

    def __call__(
        self,
        *,
        progress: Progress | None = None,
        previewed: bool = False,
        checkpoint: str = "",
        frame: Frame | None = None,
    ) -> None: ...


class Pacing:
    """Called between two steps of a job.

    Args:
        ran_s: how long the job's earlier attempts took.
    """

    def __init__(self, signals: Signals, intervals: Intervals, ran_s: float) -> None:
        self._signals, self._intervals = signals, intervals
        self._checkpointed_s = time.monotonic()
        self._started_s = self._checkpointed_s - ran_s
        self._reported_s = float("-inf")

    def after_step(
        self,
        report_progress: Callable[[], None],
        keep_checkpoint: Callable[[], None] | None,
        *,
        is_end: bool = False,
    ) -> None:
        """Report progress and keep a checkpoint, if either is due.

        Args:
            keep_checkpoint: None: no checkpoint can be made now, so the job does not stop here.
            is_end: report in any case.

        Raises:
            Canceled, Drained, TimedOut: the job is to stop here.
        """
        now_s = time.monotonic()
        if is_end or now_s - self._reported_s >= self._intervals.progress_every_s:
            self._reported_s = now_s
            report_progress()
        if self._signals.cancel.is_set():
            raise Canceled
        if keep_checkpoint is None:
            return
        draining = self._signals.drain.is_set()
        if draining or now_s - self._checkpointed_s >= self._intervals.checkpoint_every_s:
            self._checkpointed_s = now_s
            keep_checkpoint()
        if draining:
            raise Drained
        if now_s - self._started_s > self._intervals.run_timeout_s:
            raise TimedOut(f"the job took longer than {self._intervals.run_timeout_s:g} s")


class Rate:
    """Steps per second over the last few seconds."""

    def __init__(self, window_s: float = 10) -> None:
        self._window_s = window_s
        self._marks: list[tuple[float, int]] = []

    def add(self, done: int) -> None:
        """So many steps are done."""
        now_s = time.monotonic()
        self._marks.append((now_s, done))
        while len(self._marks) > 2 and now_s - self._marks[0][0] > self._window_s:
            self._marks.pop(0)

    @property
    def per_s(self) -> float | None:
        """None before there are two."""
        if not self._marks:
            return None
        (first_s, first), (last_s, last) = self._marks[0], self._marks[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else None
