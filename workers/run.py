"""One generation, from a job's request to pictures in the store. Knows no queue and no Redis."""

import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image

from jobs.record import CHECKPOINT, PICTURE, PREVIEW, Job, Output, Progress
from jobs.stores import KeyMissing, Store
from models.generators import GenerationError, ImageGenerator, Step
from models.snapshots import CheckpointUnusable

log = structlog.get_logger(__name__)


class Canceled(Exception):
    """A client asked for the job to stop."""


class Drained(Exception):
    """This worker is to stop; the job's checkpoint is kept."""


class TimedOut(Exception):
    """The job took longer than it may, all attempts together."""


@dataclass(frozen=True)
class Studio:
    """What a worker holds for its whole life."""

    generators: Mapping[str, ImageGenerator]
    store: Store


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
        self, *, progress: Progress | None = None, previewed: bool = False, checkpoint: str = ""
    ) -> None: ...


@dataclass(frozen=True)
class Resume:
    """Where an earlier attempt of a job ended."""

    image: int = 0  # pictures that are finished
    outputs: tuple[Output, ...] = ()
    state: bytes | None = None  # the generator's own checkpoint of the next one


def run(
    job: Job,
    folder: str,
    studio: Studio,
    report: Report,
    signals: Signals,
    pace: Pace,
    *,
    frugal: bool = False,
) -> tuple[Output, ...]:
    """Draw a job's pictures and keep them; returns what is to be published.

    Args:
        folder: where this attempt keeps its files in the store.
        frugal: with less of the device's memory.

    Raises:
        Canceled, Drained, TimedOut: it stopped between two steps.
        models.generators.GenerationError: it cannot be drawn.
        jobs.stores.StorageFull: no room for the pictures.
    """
    request = job.request
    generator = studio.generators.get(request.generator)
    if generator is None:
        raise GenerationError(f"no worker draws with {request.generator}")
    pictures = {item.name: _open(studio.store.read(item.key)) for item in job.inputs}
    resume = _load(studio.store, job.checkpoint)
    total = request.steps * request.num_images
    speaker = _Speaker(folder, studio.store, report, signals, pace, total=total, ran_s=job.ran_s)
    outputs = resume.outputs
    for image in range(resume.image, request.num_images):
        speaker.begin(image, outputs)
        seed = request.seed_of(image)
        draw = partial(generator.generate, request, seed=seed, pictures=pictures, frugal=frugal)
        last: Step | None = None
        for last in _steps(draw, resume.state if image == resume.image else None):
            speaker.after(last)
        if last is None:
            raise GenerationError("the generator made no picture")
        outputs = (*outputs, _keep(last, PICTURE.format(image), folder, studio.store, seed))
    return outputs


def _steps(draw: Callable[..., Iterator[Step]], state: bytes | None) -> Iterator[Step]:
    try:
        yield from draw(checkpoint=state)
    except CheckpointUnusable:
        log.warning("checkpoint unusable, starting over")
        yield from draw()


class _Speaker:
    """Says how far a job is, keeps its checkpoints, and stops it when others want that."""

    def __init__(
        self,
        folder: str,
        store: Store,
        report: Report,
        signals: Signals,
        pace: Pace,
        *,
        total: int,
        ran_s: float,
    ) -> None:
        self._folder, self._store, self._report = folder, store, report
        self._signals, self._pace, self._total = signals, pace, total
        self._progress = Progress(step=0, steps=total)
        self._checkpointed_s = time.monotonic()
        self._started_s = self._checkpointed_s - ran_s
        self._spoke_s = float("-inf")
        self._previewed_step = 0
        self._rate = _Rate()

    def begin(self, image: int, outputs: tuple[Output, ...]) -> None:
        """The steps that follow are of this picture; these are finished."""
        self._image, self._outputs = image, outputs

    def after(self, step: Step) -> None:
        """A step is done."""
        done = self._image * step.total + step.index
        self._rate.add(done)
        is_last = done == self._total
        now_s = time.monotonic()
        if is_last or now_s - self._spoke_s >= self._pace.progress_every_s:
            self._spoke_s = now_s
            self._speak(step, done)
        if self._signals.cancel.is_set():
            raise Canceled
        if step.index == step.total:
            return  # the picture is about to be kept; from a checkpoint of its end no step would follow
        draining = self._signals.drain.is_set()
        if draining or now_s - self._checkpointed_s >= self._pace.checkpoint_every_s:
            self._checkpointed_s = now_s
            self._keep_checkpoint(step)
        if draining:
            raise Drained
        if now_s - self._started_s > self._pace.run_timeout_s:
            raise TimedOut(f"the job took longer than {self._pace.run_timeout_s:g} s")

    def _speak(self, step: Step, done: int) -> None:
        preview = None
        if done - self._previewed_step >= self._pace.preview_every and done < self._total:
            self._previewed_step = done
            preview = _keep_preview(step, PREVIEW.format(self._image), self._folder, self._store)
        steps_per_s = self._rate.per_s
        self._progress = replace(
            self._progress,
            step=done,
            loss=step.loss() if step.loss else None,
            steps_per_s=round(steps_per_s, 3) if steps_per_s else None,
            eta_s=round((self._total - done) / steps_per_s, 1) if steps_per_s else None,
            preview=preview or self._progress.preview,
        )
        self._report(progress=self._progress, previewed=preview is not None)

    def _keep_checkpoint(self, step: Step) -> None:
        head = {"image": self._image, "outputs": [asdict(output) for output in self._outputs]}
        key = f"{self._folder}/{CHECKPOINT}"
        data = json.dumps(head).encode() + b"\n" + step.checkpoint()
        if len(data) > self._pace.max_checkpoint_bytes:
            log.warning("checkpoint too large, not kept", bytes=len(data))
            return
        self._store.save(key, data)
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


def _load(store: Store, key: str | None) -> Resume:
    if key is None:
        return Resume()
    try:
        head, _, state = store.read(key).partition(b"\n")
        fields = json.loads(head)
        outputs = tuple(Output(**output) for output in fields["outputs"])
        return Resume(int(fields["image"]), outputs, state)
    except (KeyMissing, ValueError, TypeError, KeyError):
        log.warning("checkpoint unreadable, starting over", key=key)
        return Resume()


def _keep(step: Step, name: str, folder: str, store: Store, seed: int) -> Output:
    pixels = step.render()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    key = f"{folder}/{name}"
    store.save(key, buffer.getvalue())
    score = round(step.score(), 4) if step.score else None
    return Output(name, key, "image/png", *_size(pixels), seed=seed, clip_score=score)


def _keep_preview(step: Step, name: str, folder: str, store: Store) -> Output:
    pixels = step.render()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    key = f"{folder}/{name}"
    store.save(key, buffer.getvalue())
    return Output(name, key, "image/jpeg", *_size(pixels))


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _size(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[0]
