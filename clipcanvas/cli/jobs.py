"""Commands about existing jobs: list, show, cancel, wait."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipcanvas.cli.terminal import console
from clipcanvas.cli.terminal.console import DEFAULT_URL, ApiKey, AsJson, Url

if TYPE_CHECKING:
    from clipcanvas.client.client import Client
    from clipcanvas.client.job import ClientJob
    from clipcanvas.client.results import Job

JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of the job, such as job_01...")]
OutputFile = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to save the image.")
]

jobs = typer.Typer(help="List, show, cancel and wait for jobs.", no_args_is_help=True)


@jobs.command("list")
def list_jobs(
    status: Annotated[
        str | None, typer.Option(help="queued, running, succeeded, failed, canceled or expired.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on after this job.")] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first.

    \b
    Examples:
      clipcanvas jobs list --status running
      clipcanvas jobs list --limit 100 --json
    """
    with console.connect(url, api_key) as client:
        page = client.jobs(status=status, limit=limit, after=after)
    if as_json:
        console.print_json(page.model_dump(mode="json"))
        return
    console.print_table(
        ["id", "status", "step", "created", "what"],
        [
            (job.id, job.status, _step(job), f"{job.created_at:%Y-%m-%d %H:%M:%S}", summary(job))
            for job in page.data
        ],
    )
    if page.has_more:
        console.note(f"there are more: --after {page.last_id}")


@jobs.command()
def show(job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show one job.

    \b
    Examples:
      clipcanvas jobs show job_01abc
    """
    with console.connect(url, api_key) as client:
        job = client.job(job_id)
    if as_json:
        console.print_json(job.model_dump(mode="json"))
        return
    drawing = [
        ("generator", job.generator),
        ("size", f"{job.request.get('width')}x{job.request.get('height')}"),
        ("seed", job.request.get("seed")),
    ]
    rows: list[tuple[str, object]] = [
        ("id", job.id),
        ("status", job.status),
        (job.type, summary(job)),
        *(drawing if job.type == "draw" else []),
        ("step", _step(job)),
        ("attempt", job.attempt),
        ("created", job.created_at),
        ("started", job.started_at),
        ("finished", job.finished_at),
        *(("output", f"{url.rstrip('/')}{output.url}") for output in job.outputs),
    ]
    if job.error:
        rows.append(("error", f"{job.error.detail} ({job.error.code})"))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {'-' if value is None else value}")


@jobs.command()
def cancel(job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Cancel a job; a running one stops within a step.

    \b
    Examples:
      clipcanvas jobs cancel job_01abc
    """
    with console.connect(url, api_key) as client:
        job = client.cancel(job_id)
    if as_json:
        console.print_json(job.model_dump(mode="json"))
    else:
        print(f"{job.id} is canceled" if job.is_final else f"{job.id} stops within a step")


@jobs.command()
def wait(
    job_id: JobId,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait at most.")] = None,
    output: OutputFile = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Wait until a job is final, and save its image with --output; Ctrl-C lets the job go on.

    \b
    Examples:
      clipcanvas jobs wait job_01abc --timeout 600 -o heart.png
    """
    if output:
        check_folder(output)
    with console.connect(url, api_key) as client:
        try:
            job = _watch(client, job_id, timeout)
        except KeyboardInterrupt:
            console.note(f"{job_id} goes on")
            raise typer.Exit(console.INTERRUPTED) from None
        saved = save_outputs(job, output) if output else []
    if as_json:
        console.print_json(job.model_dump(mode="json"))
        return
    print(f"{job.id} {job.status}")
    for path in saved:
        print(path)


def summary(job: "Job") -> str:
    """The prompts of a drawing, or the collection of an index job, in one line."""
    if collection := job.request.get("collection"):
        return f"into {collection}"
    kinds = ("image", "target", "vector", "noise")
    return " | ".join(
        str(prompt.get("text") or next((f"({kind})" for kind in kinds if kind in prompt), ""))
        for prompt in job.request.get("prompts") or []
    )


def save_outputs(job: "ClientJob", output: Path) -> list[Path]:
    """Write a job's files: the first image as `output`, all others beside it."""
    from clipcanvas.client.job import write_whole

    saved: list[Path] = []
    for item in (*job.pictures, *(item for item in job.outputs if item.kind not in ("image", "sidecar"))):
        path = output
        if item.kind != "image":
            path = output.with_name(f"{output.stem}-{item.name}")
        elif saved:
            path = output.with_name(f"{output.stem}-{len(saved)}{output.suffix}")
        saved.append(write_whole(path, job.output(item.name)))
    return saved


def check_folder(output: Path) -> None:
    """Raises typer.BadParameter: the folder of the file does not exist, or the file is a folder."""
    if not output.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {output.absolute().parent}", param_hint="--output")
    if output.is_dir():
        raise typer.BadParameter(f"{output} is a folder", param_hint="--output")


def _watch(client: "Client", job_id: str, timeout_s: float | None) -> "ClientJob":
    """`Client.wait` with a bar, where a person sees one."""
    from clipcanvas.client.job import Deadline, successful

    deadline = Deadline(timeout_s)
    longest_s = 1.0 if sys.stderr.isatty() else 60.0
    job = client.job(job_id)
    with console.progress_bar(job_id, 100) as advance:
        while not job.is_final:
            deadline.check(job)
            job = client.job(job_id, wait_s=min(longest_s, deadline.next_wait_s()))
            advance(round(100 * job.progress.fraction) if job.progress else 0)
    return successful(job)


def _step(job: "Job") -> str | None:
    return f"{job.progress.step}/{job.progress.steps}" if job.progress else None
