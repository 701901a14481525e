"""When a running job speaks, keeps a checkpoint and stops: what jobs of every type have in common."""

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
class Pace:
    """How often a running job speaks. Times are in seconds."""

    progress_every_s: float
    preview_every: int  # steps
    checkpoint_every_s: float
    run_timeout_s: float  # of the job, its earlier attempts included
    max_checkpoint_bytes: int = 256 * 2**20  # a larger one is not kept: the job would start over


@dataclass(frozen=True)
class Signals:
    """What others want of a running job; looked at between steps."""

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


class Rhythm:
    """Called between two steps of a job.

    Args:
        ran_s: how long the job's earlier attempts took.
    """

    def __init__(self, signals: Signals, pace: Pace, ran_s: float) -> None:
        self._signals, self._pace = signals, pace
        self._checkpointed_s = time.monotonic()
        self._started_s = self._checkpointed_s - ran_s
        self._spoke_s = float("-inf")

    def after_step(
        self,
        speak: Callable[[], None],
        keep_checkpoint: Callable[[], None] | None,
        *,
        is_end: bool = False,
    ) -> None:
        """Speak and keep a checkpoint if it is time to.

        Args:
            keep_checkpoint: none: there is nothing to go on from just now, and so no reason to stop.
            is_end: speak in any case.

        Raises:
            Canceled, Drained, TimedOut: the job is to stop here.
        """
        now_s = time.monotonic()
        if is_end or now_s - self._spoke_s >= self._pace.progress_every_s:
            self._spoke_s = now_s
            speak()
        if self._signals.cancel.is_set():
            raise Canceled
        if keep_checkpoint is None:
            return
        draining = self._signals.drain.is_set()
        if draining or now_s - self._checkpointed_s >= self._pace.checkpoint_every_s:
            self._checkpointed_s = now_s
            keep_checkpoint()
        if draining:
            raise Drained
        if now_s - self._started_s > self._pace.run_timeout_s:
            raise TimedOut(f"the job took longer than {self._pace.run_timeout_s:g} s")


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
