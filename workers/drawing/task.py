"""The work of drawing jobs: from a request to images in the store. Knows no queue and no Redis."""

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from jobs.record.priorities import JobType
from jobs.record.record import Job, Output
from models.catalog.memory import predict
from models.requests.checkpoint import CheckpointUnusable
from models.requests.generator import Drawing, Generate, GenerationError, Step
from storage.blobs import Store
from workers import device
from workers.drawing.background_writer import Writer
from workers.drawing.outputs import FinishedImage, OutputWriter, open_image, versions
from workers.drawing.progress import ProgressReporter, load_checkpoint
from workers.drawing.video import Film
from workers.runner.pacing import Intervals, Report, Signals
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class DrawingContext:
    """What a worker keeps between jobs."""

    generators: Mapping[str, Generate]
    store: Store
    about: Mapping[str, str] = field(default_factory=versions)  # of what draws; images tell it


class DrawingWork:
    """The work of a worker that draws; `workers.runner.attempt.Work` says how it is called."""

    type: JobType = "draw"

    def __init__(self, settings: WorkerSettings, context: DrawingContext) -> None:
        self._settings, self._context = settings, context
        self.store = context.store
        self.memory = settings.device_memory or device.memory(settings.device)  # bytes

    def needs_low_memory(self, job: Job) -> bool:
        request = job.drawing
        if request.generator not in self._context.generators:
            return False  # which is told as it is run
        return predict(request, self._settings.network_names, low_memory=False) > self.memory

    def goes_with(self, job: Job, others: list[Job]) -> bool:
        """Of the same generator, size and number of cutouts, and all of them fit into the memory at once."""
        jobs = [job, *others]
        kinds = {
            (job.drawing.generator, job.drawing.width, job.drawing.height, job.drawing.options.get("cutouts"))
            for job in jobs
        }
        need = sum(predict(job.drawing, self._settings.network_names, low_memory=False) for job in jobs)
        return len(kinds) == 1 and need <= self.memory

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
        return run(job, folder, self._context, report, signals, intervals, low_memory=low_memory)


def run(
    job: Job,
    folder: str,
    context: DrawingContext,
    report: Report,
    signals: Signals,
    intervals: Intervals,
    *,
    low_memory: bool = False,
) -> tuple[Output, ...]:
    """Draw a job's images and keep them; returns what is to be published.

    Args:
        folder: where this attempt keeps its files in the store.
        low_memory: use less device memory and more time.

    Raises:
        workers.runner.pacing.Canceled, Drained, TimedOut: it stopped between two steps.
        models.requests.generator.GenerationError: it cannot be drawn.
        storage.blobs.StorageFull: no room for the images.
    """
    request = job.drawing
    generate = context.generators.get(request.generator)
    if generate is None:
        raise GenerationError(f"no worker draws with {request.generator}")
    images = {item.name: open_image(context.store.read(item.key)) for item in job.inputs}
    start = load_checkpoint(context.store, job.checkpoint)
    output_writer = OutputWriter(job, folder, context.store, context.about)
    outputs = [*start.outputs]
    with closing(Writer()) as writer:
        reporter = ProgressReporter(output_writer, writer, report, signals, intervals, drawn=start.drawn)
        for image in range(start.image, request.num_images):
            state, frames = (start.state, start.frames) if image == start.image else (None, ())
            film = Film(image, request.save, folder, context.store, writer, reporter.report_frame, frames)
            reporter.begin(image, film, outputs)
            drawing = Drawing(request, request.seed_of(image), images, state, low_memory)
            last: Step | None = None
            # closed at once: nobody waits for a generator that stopped
            with closing(_steps(generate, drawing)) as steps:
                watch = _Watch(steps)
                for last in watch:
                    writer.check()
                    film.after(last)
                    reporter.after(last)
            if last is None:
                raise GenerationError("the generator made no image")
            log.info("image drawn", image=image, steps=watch.count, seconds_in_steps=round(watch.seconds, 3))
            writer.add(partial(_keep, output_writer, FinishedImage.of(last), image, film, outputs))
        writer.settle()
        return output_writer.all_of(tuple(outputs))


def _keep(
    output_writer: OutputWriter, drawn: FinishedImage, image: int, film: Film, outputs: list[Output]
) -> None:
    outputs += output_writer.picture(drawn, image, film)


class _Watch:
    """Counts steps, and the seconds until each is made: the rest of a job's time is what surrounds them."""

    def __init__(self, steps: Iterator[Step]) -> None:
        self._steps = steps
        self.count, self.seconds = 0, 0.0

    def __iter__(self) -> Iterator[Step]:
        while True:
            started_s = time.monotonic()
            step = next(self._steps, None)
            self.seconds += time.monotonic() - started_s
            if step is None:
                return
            self.count += 1
            yield step


def _steps(generate: Generate, drawing: Drawing) -> Generator[Step]:
    try:
        yield from generate(drawing)
    except CheckpointUnusable:
        log.warning("checkpoint unusable, starting over")
        yield from generate(replace(drawing, resume_from=None))
