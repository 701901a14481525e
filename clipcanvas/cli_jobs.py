"""Commands about drawings: draw, and jobs list, show, cancel, wait."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcanvas import terminal
from clipcanvas.terminal import DEFAULT_URL, ApiKey, AsJson, Url

if TYPE_CHECKING:
    from clipcanvas.job import ClientJob
    from clipcanvas.results import Job

JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of the job, such as job_01...")]
OutputFile = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to save the picture.")
]

FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp"}

jobs = typer.Typer(help="List, show, cancel and wait for jobs.", no_args_is_help=True)


def draw(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help='What to draw, such as "a fox | blurry:-0.3".')
    ],
    output: OutputFile = None,
    size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="In pixels; without, the generator's own.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the drawing loop.")] = None,
    seed: Annotated[
        str | None,
        typer.Option(metavar="NUMBER|WORD", help="The same seed draws the same picture."),
    ] = None,
    generator: Annotated[
        str | None, typer.Option(metavar="NAME", help="How to draw; see `clipcanvas models`.")
    ] = None,
    num_images: Annotated[int | None, typer.Option("--num-images", "-n", min=1, help="How many.")] = None,
    quality: Annotated[
        str | None, typer.Option(help="How much time it is worth: draft, normal, better or best.")
    ] = None,
    aspect: Annotated[str | None, typer.Option(help="Shape: square, portrait or widescreen.")] = None,
    compat: Annotated[
        str | None, typer.Option(help="Defaults of another program: crowson, nerdyrodent or pixray.")
    ] = None,
    init_image: Annotated[
        Path | None, typer.Option("--init-image", metavar="FILE", help="Picture to start from.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What of it to draw anew: white is drawn, black kept.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-O",
            metavar="KEY=VALUE",
            help="Option of the generator, such as cutouts=8 or style_image=@FILE; repeatable.",
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="Of the picture: png, jpeg or webp; without, as FILE is named.")
    ] = None,
    video: Annotated[str | None, typer.Option(help="Film the drawing: mp4, webp or frames (a ZIP).")] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--save",
            metavar="KEY=VALUE",
            help="What else is kept, such as thumbnail=256 or contact_sheet=true; repeatable.",
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the job's id, do not wait.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Draw a picture and save it; Ctrl-C cancels the job."""
    width, height = _size(size)
    options = {"init_image": init_image, "mask": mask} | dict(_option(item) for item in option or [])
    options = {name: value for name, value in options.items() if value is not None}
    save = dict(_option(item, "--save") for item in keep or [])
    format = format or (FORMATS.get(output.suffix.lower()) if output else None)
    save |= {name: value for name, value in (("format", format), ("video", video)) if value is not None}
    if output:
        _check_folder(output)
    with terminal.connect(url, api_key) as client:
        job = client.create_job(
            prompt,
            generator=generator,
            width=width,
            height=height,
            steps=steps,
            seed=int(seed) if seed and seed.isdecimal() else seed,
            num_images=num_images,
            quality=quality,
            aspect=aspect,
            compat=compat,
            options=options or None,
            save=save or None,
        )
        if detach:
            terminal.print_json(job.model_dump(mode="json")) if as_json else print(job.id)
            return
        try:
            ended, saved = follow(job, output or Path(f"{job.id}.{SUFFIXES.get(format or 'png')}"))
        except KeyboardInterrupt:
            _cancel_interrupted(job.id, url, api_key)
            raise typer.Exit(terminal.INTERRUPTED) from None
    if as_json:
        terminal.print_json(ended.model_dump(mode="json") | {"saved": [str(path) for path in saved]})
        return
    for path in saved:
        print(path)
    seconds = (
        (ended.finished_at - ended.started_at).total_seconds()
        if ended.finished_at and ended.started_at
        else 0
    )
    terminal.note(f"{ended.id} took {seconds:.1f} s with seed {ended.request.get('seed')}")


def follow(job: "ClientJob", output: Path) -> "tuple[ClientJob, list[Path]]":
    """Show a job's progress until it succeeded, and save its pictures, films and what else was asked for.

    Args:
        output: of the first picture; others get a number, files of other kinds their own names behind its
            name, and previews lie beside it meanwhile.

    Raises:
        JobUnsuccessful: it ended without pictures.
    """
    from clipcanvas.client import write_whole
    from clipcanvas.progress import ProgressDisplay

    preview_path = output.with_name(f"{output.stem}.preview.jpg")
    previewed = False
    try:
        with ProgressDisplay(job) as display:
            for event in job.events():
                display.show(event)
                if event.preview:
                    display.previewed(write_whole(preview_path, job.output(event.preview.name)))
                    previewed = True
        ended = job.wait()
        saved = _save(ended, output)
    except BaseException:
        if previewed:
            terminal.note(f"the last preview is {preview_path}")
        raise
    preview_path.unlink(missing_ok=True)
    return ended, saved


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
    """List jobs, newest first."""
    with terminal.connect(url, api_key) as client:
        page = client.jobs(status=status, limit=limit, after=after)
    if as_json:
        terminal.print_json(page.model_dump(mode="json"))
        return
    terminal.print_table(
        ["id", "status", "step", "created", "prompt"],
        [
            (job.id, job.status, _step(job), f"{job.created_at:%Y-%m-%d %H:%M:%S}", _prompt(job))
            for job in page.data
        ],
    )
    if page.has_more:
        terminal.note(f"there are more: --after {page.last_id}")


@jobs.command()
def show(job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show one job."""
    with terminal.connect(url, api_key) as client:
        job = client.job(job_id)
    if as_json:
        terminal.print_json(job.model_dump(mode="json"))
        return
    rows: list[tuple[str, object]] = [
        ("id", job.id),
        ("status", job.status),
        ("prompt", _prompt(job)),
        ("generator", job.generator),
        ("size", f"{job.request.get('width')}x{job.request.get('height')}"),
        ("seed", job.request.get("seed")),
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
    """Cancel a job; a running one stops within a step."""
    with terminal.connect(url, api_key) as client:
        job = client.cancel(job_id)
    if as_json:
        terminal.print_json(job.model_dump(mode="json"))
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
    """Wait until a job is final, and save its picture if asked; Ctrl-C leaves the job alone."""
    if output:
        _check_folder(output)
    with terminal.connect(url, api_key) as client:
        try:
            job = client.wait(job_id, timeout_s=timeout)
        except KeyboardInterrupt:
            terminal.note(f"{job_id} goes on")
            raise typer.Exit(terminal.INTERRUPTED) from None
        saved = _save(job, output) if output else []
    if as_json:
        terminal.print_json(job.model_dump(mode="json"))
        return
    print(f"{job.id} {job.status}")
    for path in saved:
        print(path)


def _save(job: "ClientJob", output: Path) -> list[Path]:
    from clipcanvas.client import write_whole

    saved: list[Path] = []
    for item in (*job.pictures, *(item for item in job.outputs if item.kind not in ("image", "sidecar"))):
        path = output
        if item.kind != "image":
            path = output.with_name(f"{output.stem}-{item.name}")
        elif saved:
            path = output.with_name(f"{output.stem}-{len(saved)}{output.suffix}")
        saved.append(write_whole(path, job.output(item.name)))
    return saved


def _cancel_interrupted(job_id: str, url: str, api_key: str | None) -> None:
    from clipcanvas.errors import ApiError

    with terminal.connect(url, api_key) as client:  # the other one was interrupted in the middle of an answer
        try:
            client.cancel(job_id)
        except ApiError as error:
            if error.status != 409:
                raise
            terminal.note(f"{job_id} had ended already")
            return
    terminal.note(f"canceled {job_id}")


def _check_folder(output: Path) -> None:
    if not output.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {output.absolute().parent}", param_hint="--output")
    if output.is_dir():
        raise typer.BadParameter(f"{output} is a folder", param_hint="--output")


def _size(size: str | None) -> tuple[int | None, int | None]:
    if size is None:
        return None, None
    width, cross, height = size.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"expected WIDTHxHEIGHT such as 256x256, not {size!r}", param_hint="--size")
    return int(width), int(height)


def _option(text: str, flag: str = "--option") -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise typer.BadParameter(f"expected KEY=VALUE, not {text!r}", param_hint=flag)
    if value.startswith("@"):
        return name, Path(value[1:])
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _step(job: "Job") -> str | None:
    return f"{job.progress.step}/{job.progress.steps}" if job.progress else None


def _prompt(job: "Job") -> str:
    prompts = job.request.get("prompts") or []
    kinds = ("image", "target", "vector", "noise")
    return " | ".join(
        str(prompt.get("text") or next((f"({kind})" for kind in kinds if kind in prompt), ""))
        for prompt in prompts
    )
