"""Show a drawing's progress and previews: live on a terminal, as a line every few seconds elsewhere."""

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn

from clipcanvas.cli.terminal.console import LINE_EVERY_S
from clipcanvas.cli.terminal.images import terminal_image
from clipcanvas.cli.terminal.query import TerminalQuery
from clipcanvas.client.results import Event, Job


class ProgressDisplay:
    """Shows the events of one job on standard error.

    Args:
        preview: show previews, if the terminal can.
    """

    def __init__(self, job: Job, *, preview: bool = True) -> None:
        self._console = Console(stderr=True)
        self._preview = preview and self._console.is_terminal
        self._query: TerminalQuery | None = None
        self._bar = _BarBelowImage(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("{task.fields[preview]}", style="dim"),
            console=self._console,
            disable=not self._console.is_terminal,
            auto_refresh=False,  # nothing changes between two events, and an image is many bytes
        )
        steps = int(job.request.get("steps") or 1) * int(job.request.get("num_images") or 1)
        self._task = self._bar.add_task(job.status, total=steps, numbers="", preview="")
        self._last_line_at = time.monotonic()
        self._line(f"{job.id} {job.status}")

    def __enter__(self) -> Self:
        self._bar.start()
        self._query = TerminalQuery() if self._preview else None
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._query:
            self._query.close()

    def show(self, event: Event) -> None:
        """Show the status or the progress that an event brings."""
        if event.type == "status" and (status := event.data.get("status")):
            self._bar.update(self._task, description=str(status))
            self._line(str(status))
        if progress := event.progress:
            numbers = [f"loss {progress.loss:.3f}"] if progress.loss is not None else []
            if progress.eta_s is not None:
                numbers.append(f"{progress.eta_s:.0f} s left")
            text = "  ".join(numbers)
            self._bar.update(
                self._task,
                description="drawing",
                completed=progress.step,
                total=progress.steps or 1,
                numbers=text,
            )
            if time.monotonic() - self._last_line_at > LINE_EVERY_S:
                self._line(f"step {progress.step}/{progress.steps}  {text}")
        if job := event.job:
            steps = job.progress.steps if job.progress else 1
            done = steps if job.status == "succeeded" else job.progress.step if job.progress else 0
            self._bar.update(self._task, description=job.status, completed=done, total=steps or 1, preview="")
        self._bar.refresh()

    def previewed(self, path: Path) -> None:
        """Show the newest preview, or its path where the terminal shows no images."""
        if self._query:
            with contextlib.suppress(OSError):  # this PIL does not know the format
                self._bar.image = terminal_image(path, self._console, self._query.graphics())
        if not self._bar.image:
            self._bar.update(self._task, preview=str(path))
        self._bar.refresh()

    def _line(self, text: str) -> None:
        self._last_line_at = time.monotonic()
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, soft_wrap=True)


class _BarBelowImage(Progress):
    image: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.image:
            yield self.image
        yield from super().get_renderables()
