"""How far a drawing is: progress, previews, frames and checkpoints, reported and resumed from."""

import json
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from functools import partial

import structlog

from jobs.filenames import CHECKPOINT
from jobs.record.record import Frame, Output, Progress
from models.requests.generator import Step
from storage.blobs import KeyMissing, Store
from workers.drawing.background_writer import Writer
from workers.drawing.outputs import OutputWriter
from workers.drawing.video import Film, Kept
from workers.runner.pacing import Intervals, Pacing, Rate, Report, Signals

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Resume:
    """How far a job is."""

    image: int = 0  # images that are finished
    drawn: int = 0  # steps of those
    outputs: tuple[Output, ...] = ()  # of those
    frames: Kept = ()  # of the next one
    state: bytes | None = None  # of the next one: the generator's own checkpoint

    def pack(self) -> bytes:
        """A line of JSON, then the state."""
        head = {
            "image": self.image,
            "drawn": self.drawn,
            "outputs": [asdict(output) for output in self.outputs],
            "frames": self.frames,
        }
        return json.dumps(head).encode() + b"\n" + (self.state or b"")


def load_checkpoint(store: Store, key: str | None) -> Resume:
    """What was kept under that key; from the start, if nothing was that can be read."""
    if key is None:
        return Resume()
    try:
        head, _, state = store.read(key).partition(b"\n")
        fields = json.loads(head)
        return Resume(
            int(fields["image"]),
            int(fields["drawn"]),
            tuple(Output(**output) for output in fields["outputs"]),
            tuple((str(folder), int(step)) for folder, step in fields["frames"]),
            state,
        )
    except (KeyMissing, ValueError, TypeError, KeyError):
        log.warning("checkpoint unreadable, starting over", key=key)
        return Resume()


class ProgressReporter:
    """Reports the progress of a drawing, keeps its checkpoints, and stops it on request.

    Args:
        writer: of the attempt's files.
        drawn: steps of the images that are finished.
    """

    def __init__(
        self,
        output_writer: OutputWriter,
        writer: Writer,
        report: Report,
        signals: Signals,
        intervals: Intervals,
        *,
        drawn: int,
    ) -> None:
        self._output_writer, self._writer, self._report, self._intervals = (
            output_writer,
            writer,
            report,
            intervals,
        )
        self._pacing = Pacing(signals, intervals, output_writer.job.ran_s)
        self._request = output_writer.job.drawing
        self._drawn = drawn
        self._progress = Progress(step=0, steps=0)
        self._previewed_step = 0
        self._saving: Future[Output] | None = None
        self._checkpointing: Future[None] | None = None
        self._rate = Rate()

    def begin(self, image: int, film: Film, outputs: list[Output]) -> None:
        """The steps that follow are of this image. The writer's thread adds to the outputs."""
        self._image, self._film, self._outputs = image, film, outputs
        self._left = (self._request.num_images - image - 1) * self._request.steps  # after this image

    def report_frame(self, frame: Frame) -> None:
        """A film has one more frame."""
        self._report(frame=frame)

    def after(self, step: Step) -> None:
        """A step is done."""
        done = self._drawn + step.index
        total = done + self._left + (0 if step.is_last else step.total - step.index)
        self._rate.add(done)
        self._pacing.after_step(
            lambda: self._report_progress(step, done, total),
            # the image is about to be kept; from a checkpoint of its end no step would follow
            None if step.is_last else lambda: self._keep_checkpoint(step),
            is_end=done == total,
        )
        if step.is_last:
            self._drawn = done

    def _report_progress(self, step: Step, done: int, total: int) -> None:
        is_due = done - self._previewed_step >= self._intervals.preview_every and done < total
        preview = self._saved_preview(wait=is_due or done == total)
        if is_due:
            self._previewed_step = done
            self._saving = self._writer.add(partial(self._output_writer.preview, step.render(), self._image))
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

    def _saved_preview(self, *, wait: bool) -> Output | None:
        """One that was not told of yet, once it is saved."""
        if self._saving is None or not (wait or self._saving.done()):
            return None
        preview, self._saving = self._saving.result(), None
        return preview

    def _keep_checkpoint(self, step: Step) -> None:
        if self._checkpointing is not None:
            self._checkpointing.result()  # they may be large: one waits at a time
        resume = Resume(self._image, self._drawn, state=step.checkpoint())
        self._checkpointing = self._writer.add(
            partial(self._save_checkpoint, resume, self._outputs, self._film)
        )

    def _save_checkpoint(self, resume: Resume, outputs: list[Output], film: Film) -> None:
        # in the writer's thread, where all is kept that was added before
        data = replace(resume, outputs=tuple(outputs), frames=film.kept).pack()
        if len(data) > self._intervals.max_checkpoint_bytes:
            log.warning("checkpoint too large, not kept", bytes=len(data))
            return
        key = f"{self._output_writer.folder}/{CHECKPOINT}"
        self._output_writer.store.save(key, data)
        self._report(checkpoint=key)
