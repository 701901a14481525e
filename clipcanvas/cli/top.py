"""`clipcanvas top`: what waits, what runs and who works, live."""

import contextlib
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcanvas.cli import jobs as cli_jobs
from clipcanvas.cli.terminal import console as terminal
from clipcanvas.cli.terminal.console import DEFAULT_URL, ApiKey, AsJson, Url

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipcanvas.client.client import Client
    from clipcanvas.client.results import Job, QueueState

WAITING_SHOWN = 10
BAR_CHARACTERS = 20


def top(
    interval: Annotated[float, typer.Option(min=0.2, metavar="SECONDS", help="From look to look.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once; so it is where no terminal is.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Watch the queue and the workers until Ctrl-C.

    Of the jobs, it shows those of your key.

    \b
    Examples:
      clipcanvas top
      clipcanvas top --interval 5
      clipcanvas top --json
    """
    from rich.console import Console
    from rich.live import Live

    from clipcanvas.client.errors import Unreachable

    console = Console()
    with terminal.connect(url, api_key) as client:
        state, jobs = _look(client)
        if as_json:
            found = {
                "queue": state.model_dump(mode="json"),
                "jobs": [job.model_dump(mode="json") for job in jobs],
            }
            terminal.print_json(found)
            return
        if once or not console.is_terminal:
            console.print(_screen(url, state, jobs))
            return
        with (
            contextlib.suppress(KeyboardInterrupt),  # the way out
            Live(_screen(url, state, jobs), console=console, screen=True, auto_refresh=False) as live,
        ):
            while True:
                time.sleep(interval)
                note = ""
                try:
                    state, jobs = _look(client)
                except Unreachable as error:  # it may be back at the next look
                    note = str(error)
                live.update(_screen(url, state, jobs, note), refresh=True)


def _look(client: "Client") -> "tuple[QueueState, list[Job]]":
    """The queue, and the jobs that run and wait, the next first."""
    waiting = client.jobs(status="queued", limit=100).data
    running = client.jobs(status="running", limit=100).data
    return client.queue(), [*running, *sorted(waiting, key=lambda job: job.queue_position or 0)]


def _screen(url: str, state: "QueueState", jobs: "list[Job]", note: str = "") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    workers = terminal.table(
        ["worker", "does", "state", "for", "device", "host", "process", "job"],
        [_worker(worker) for worker in state.workers],
    )
    shown = [job for job in jobs if job.status == "running"]
    shown += [job for job in jobs if job.status == "queued"][:WAITING_SHOWN]
    listed = terminal.table(["job", "status", "", "step", "left", "what"], [_row(job) for job in shown])
    count = f"{state.queued} queued, {state.running} running, {len(state.workers)} workers"
    head = Text.assemble((count, "bold"), f"  {url}  ", (note, "red"))
    return Group(head, Text(), workers, Text(), listed)


def _worker(worker: dict[str, Any]) -> list[object]:
    since = worker.get("since")
    return [
        worker.get("name"),
        worker.get("type", "draw"),
        worker.get("state"),
        _span(time.time() - since) if isinstance(since, int | float) else None,
        worker.get("device"),
        worker.get("host"),
        worker.get("pid"),
        worker.get("job") or None,
    ]


def _row(job: "Job") -> list[object]:
    if job.progress is None:
        return [job.id, job.status, "", None, None, cli_jobs.summary(job)]
    done = round(BAR_CHARACTERS * job.progress.fraction)
    eta_s = job.progress.eta_s
    return [
        job.id,
        job.status,
        "█" * done + "·" * (BAR_CHARACTERS - done),
        f"{job.progress.step}/{job.progress.steps}",
        None if eta_s is None else _span(eta_s),
        cli_jobs.summary(job),
    ]


def _span(seconds: float) -> str:
    """A duration as one reads it: 42 s, 7 min, 3 h."""
    if seconds < 100:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
