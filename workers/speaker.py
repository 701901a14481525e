"""How a running job speaks and listens: progress, previews and checkpoints; cancel, drain and time limits."""

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from jobs.filenames import CHECKPOINT
from jobs.record import Frame, Output, Progress
from models.generators import Step
from workers.film import Film
from workers.outputs import Keeper
from workers.resume import Resume

log = structlog.get_logger(__name__)


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


class Speaker:
    """Says how far a job is, keeps its checkpoints, and stops it when others want that.

    Args:
        drawn: steps of the pictures that are finished.
    """

    def __init__(self, keeper: Keeper, report: Report, signals: Signals, pace: Pace, *, drawn: int) -> None:
        self._keeper, self._report, self._signals, self._pace = keeper, report, signals, pace
        self._request = keeper.job.drawing
        self._drawn = drawn
        self._progress = Progress(step=0, steps=0)
        self._checkpointed_s = time.monotonic()
        self._started_s = self._checkpointed_s - keeper.job.ran_s
        self._spoke_s = float("-inf")
        self._previewed_step = 0
        self._rate = _Rate()

    def begin(self, image: int, film: Film, outputs: tuple[Output, ...]) -> None:
        """The steps that follow are of this picture; these are finished."""
        self._image, self._film, self._outputs = image, film, outputs
        self._left = (self._request.num_images - image - 1) * self._request.steps  # after this picture

    def tell_frame(self, frame: Frame) -> None:
        """A film has one more frame."""
        self._report(frame=frame)

    def after(self, step: Step) -> None:
        """A step is done."""
        done = self._drawn + step.index
        total = done + self._left + (0 if step.is_last else step.total - step.index)
        self._rate.add(done)
        now_s = time.monotonic()
        if done == total or now_s - self._spoke_s >= self._pace.progress_every_s:
            self._spoke_s = now_s
            self._speak(step, done, total)
        if self._signals.cancel.is_set():
            raise Canceled
        if step.is_last:
            self._drawn = done
            return  # the picture is about to be kept; from a checkpoint of its end no step would follow
        draining = self._signals.drain.is_set()
        if draining or now_s - self._checkpointed_s >= self._pace.checkpoint_every_s:
            self._checkpointed_s = now_s
            self._keep_checkpoint(step)
        if draining:
            raise Drained
        if now_s - self._started_s > self._pace.run_timeout_s:
            raise TimedOut(f"the job took longer than {self._pace.run_timeout_s:g} s")

    def _speak(self, step: Step, done: int, total: int) -> None:
        preview = None
        if done - self._previewed_step >= self._pace.preview_every and done < total:
            self._previewed_step = done
            preview = self._keeper.preview(step, self._image)
        steps_per_s = self._rate.per_s
        self._progress = replace(
            self._progress,
            step=done,
            steps=total,
            loss=step.loss() if step.loss else None,
            steps_per_s=round(steps_per_s, 3) if steps_per_s else None,
            eta_s=round((total - done) / steps_per_s, 1) if steps_per_s else None,
            preview=preview or self._progress.preview,
        )
        self._report(progress=self._progress, previewed=preview is not None)

    def _keep_checkpoint(self, step: Step) -> None:
        state = step.checkpoint()
        data = Resume(self._image, self._drawn, self._outputs, self._film.kept, state).pack()
        if len(data) > self._pace.max_checkpoint_bytes:
            log.warning("checkpoint too large, not kept", bytes=len(data))
            return
        key = f"{self._keeper.folder}/{CHECKPOINT}"
        self._keeper.store.save(key, data)
        self._report(checkpoint=key)


class _Rate:
    """Steps per second over the last few seconds."""

    def __init__(self, window_s: float = 10) -> None:
        self._window_s = window_s
        self._marks: list[tuple[float, int]] = []

    def add(self, done: int) -> None:
        now_s = time.monotonic()
        self._marks.append((now_s, done))
        while len(self._marks) > 2 and now_s - self._marks[0][0] > self._window_s:
            self._marks.pop(0)

    @property
    def per_s(self) -> float | None:
        (first_s, first), (last_s, last) = self._marks[0], self._marks[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else None
