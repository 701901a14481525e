"""A store and a report that tests of drawing look into, and a job to draw."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from jobs.record.record import Frame, Job, Output, Progress, Status
from models.requests.request import GenerationRequest, Prompt, SaveOptions
from storage.blobs import KeyMissing
from workers.runner.pacing import Intervals

INTERVALS = Intervals(progress_every_s=0, preview_every=4, checkpoint_every_s=1000, run_timeout_s=1000)
REQUEST = GenerationRequest(
    generator="gradient",
    prompts=(Prompt(text="a fox"),),
    width=24,
    height=16,
    steps=10,
    seed=3,
    num_images=2,
    save=SaveOptions(metadata=False),
)


class DictStore:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def save(self, key: str, data: bytes) -> None:
        self.kept[key] = data

    def read(self, key: str) -> bytes:
        try:
            return self.kept[key]
        except KeyError as error:
            raise KeyMissing(key) from error

    def delete(self, prefix: str) -> None:
        self.kept = {key: data for key, data in self.kept.items() if not key.startswith(prefix)}

    def check(self) -> None:
        return

    def folders(self) -> Iterator[tuple[str, float]]:
        return iter([])


class Reports:
    """Keeps what it is told, and calls `on_step` at each."""

    def __init__(self, on_step: Any = None) -> None:
        self.progress: list[Progress] = []
        self.previews: list[Output] = []
        self.checkpoints: list[str] = []
        self.frames: list[Frame] = []
        self.on_step = on_step

    def __call__(
        self,
        *,
        progress: Progress | None = None,
        previewed: bool = False,
        checkpoint: str = "",
        frame: Frame | None = None,
    ) -> None:
        if frame:
            self.frames.append(frame)
        if progress:
            self.progress.append(progress)
            if previewed and progress.preview:
                self.previews.append(progress.preview)
            if self.on_step:
                self.on_step(progress.step)
        if checkpoint:
            self.checkpoints.append(checkpoint)


def job(request: GenerationRequest = REQUEST, **fields: Any) -> Job:
    return Job("job_a", "", "draw", Status.RUNNING, 2, "normal", request, 1, datetime.now(UTC), **fields)
