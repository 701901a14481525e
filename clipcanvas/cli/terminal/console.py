"""What all commands share: how they connect, print, and end."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from clipcanvas.client.client import Client

OK = 0
UNSUCCESSFUL = 1
USAGE = 2
UNREACHABLE = 3
REFUSED = 4
NOT_SERVED = 5
TIMED_OUT = 6
INTERRUPTED = 130

LINE_EVERY_S = 5.0  # seconds between lines of progress, where standard error is no terminal

EXIT_CODES = (
    "Exit codes: 0 done; 1 the job failed, was canceled or expired, a file could not be written, or doctor "
    "or verify found something missing; 2 wrong usage; 3 the service, or a server of weights, does not "
    "answer; 4 the service refused, or a file of weights was refused; 5 the service could not be started or "
    "kept running; 6 waited too long; 130 interrupted."
)

Url = Annotated[
    str, typer.Option("--url", envvar="CLIPCANVAS_URL", metavar="URL", help="Where the service is.")
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key", envvar="CLIPCANVAS_API_KEY", metavar="KEY", help="Key, if the service asks for one."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Model = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="CLIP to use; see `clipcanvas models served`.")
]
TopK = Annotated[
    int | None, typer.Option("--top-k", min=1, help="How many of the best to print; without, all.")
]

DEFAULT_URL = "http://127.0.0.1:8000"
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def connect(url: str, api_key: str | None) -> "Client":
    """A client that gives up after a few seconds, as a person waits for it."""
    from clipcanvas.client.client import Client

    try:
        return Client(url, api_key, retries=2)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from error


def text_or_image(argument: str) -> str | Path:
    """A text, or the path of an image if there is such a file.

    Raises:
        typer.BadParameter: the image file does not exist.
    """
    path = Path(argument)
    if path.suffix.lower() in IMAGE_SUFFIXES or os.path.isfile(argument):  # no error for a long text
        return image_path(argument)
    return argument


def image_path(argument: str) -> Path:
    """The path of an image file.

    Raises:
        typer.BadParameter: the file cannot be read.
    """
    path = Path(argument)
    try:
        path.open("rb").close()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {argument}: {error.strerror}") from error
    return path


def print_json(data: Any) -> None:
    """Print an answer as indented JSON on standard output."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """Print a table on standard output."""
    from rich.console import Console

    Console().print(table(columns, rows, title))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> "Table":
    """A table; columns of numbers are aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        made.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(_cell(value)) for value in row))
    return made


@contextlib.contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error if that is a terminal; yields a function that takes the number done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    count = TextColumn("{task.completed:.0f}/{task.total:.0f}")
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextlib.contextmanager
def bytes_bar(what: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """Show a bar of bytes on standard error, or a line every few seconds where that is no terminal.

    Yields a function that takes the stage, the bytes done, and the bytes in all, or None if unknown.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as Speed

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        Speed(),
        TimeRemainingColumn(),
    )
    printed_at = 0.0
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task, stage = bar.add_task(what, total=None), ""

        def advance(doing: str, done: int, total: int | None) -> None:
            nonlocal printed_at, stage, task
            if doing != stage:  # a task per stage: the speed of one stage says nothing of the next
                stage = doing
                bar.remove_task(task)
                task = bar.add_task(f"{what} {doing}", total=total)
            bar.update(task, completed=done, total=total)
            now = time.monotonic()
            if not console.is_terminal and now > printed_at + LINE_EVERY_S:
                printed_at = now
                of = f" of {bytes_text(total)}" if total else ""
                note(f"{what} {doing} {bytes_text(done)}{of}")

        yield advance


def bytes_text(count: int) -> str:
    """A number of bytes for people: `1.7 GB`."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 10 * size else f"{count / size:.0f} {unit}"
    return f"{count} B"


def note(message: str) -> None:
    """Print a line on standard error."""
    print(message, file=sys.stderr)


def explain(error: Exception) -> int:
    """Print an error in one line and its remedy, and return the exit code."""
    from clipcanvas.cli.catalog import CatalogError
    from clipcanvas.client.errors import ApiError, JobUnsuccessful, Unreachable, WaitTimeout

    note(f"error: {error}")
    if isinstance(error, Unreachable):
        note("Is it running? `clipcanvas serve` starts it; --url or CLIPCANVAS_URL says where it is.")
        return UNREACHABLE
    if isinstance(error, ApiError):
        for item in error.errors:
            note(f"  {item.get('pointer', '')}: {item.get('detail', item.get('code', ''))}")
        if error.status == 401:
            note("The service asks for a key: set CLIPCANVAS_API_KEY or pass --api-key.")
        if error.request_id:
            note(f"  request {error.request_id}")
        return REFUSED
    if isinstance(error, CatalogError):
        return {"usage": USAGE, "unreachable": UNREACHABLE, "refused": REFUSED}.get(
            error.problem, UNSUCCESSFUL
        )
    if isinstance(error, WaitTimeout):
        return TIMED_OUT
    return UNSUCCESSFUL if isinstance(error, JobUnsuccessful | OSError) else NOT_SERVED


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
