"""`clipcanvas draw`: create a job, show its progress, save its files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcanvas.cli.jobs import OutputFile, check_folder, save_outputs
from clipcanvas.cli.terminal import console
from clipcanvas.cli.terminal.console import DEFAULT_URL, ApiKey, AsJson, Url

if TYPE_CHECKING:
    from clipcanvas.client.job import ClientJob

FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp"}


def draw(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help='What to draw, such as "a fox | blurry:-0.3".')
    ],
    output: OutputFile = None,
    size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="In pixels; default: the generator's own.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the drawing loop.")] = None,
    seed: Annotated[
        str | None,
        typer.Option(metavar="NUMBER|WORD", help="The same seed draws the same image."),
    ] = None,
    generator: Annotated[
        str | None, typer.Option(metavar="NAME", help="How to draw; see `clipcanvas models served`.")
    ] = None,
    num_images: Annotated[int | None, typer.Option("--num-images", "-n", min=1, help="How many.")] = None,
    quality: Annotated[
        str | None, typer.Option(help="Quality against time: draft, normal, better or best.")
    ] = None,
    aspect: Annotated[str | None, typer.Option(help="Shape: square, portrait or widescreen.")] = None,
    compat: Annotated[
        str | None, typer.Option(help="Defaults of another program: crowson, nerdyrodent or pixray.")
    ] = None,
    init_image: Annotated[
        Path | None, typer.Option("--init-image", metavar="FILE", help="Image to start from.")
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What to draw: white is drawn, black kept."),
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
        str | None, typer.Option(help="Format of the image: png, jpeg or webp; default: by the name of FILE.")
    ] = None,
    video: Annotated[
        str | None, typer.Option(help="Make a video of the drawing: mp4, webp or frames (a ZIP).")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--save",
            metavar="KEY=VALUE",
            help="What else to keep, such as thumbnail=256 or contact_sheet=true; repeatable.",
        ),
    ] = None,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview/--no-preview",
            help="Show the drawing in the terminal: in pixels (kitty, sixel), or in characters.",
        ),
    ] = True,
    detach: Annotated[bool, typer.Option("--detach", help="Print the job's id, do not wait.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Draw an image and save it; Ctrl-C cancels the job.

    \b
    Examples:
      clipcanvas draw "a red heart" -o heart.png
      clipcanvas draw "a fox | blurry:-0.3" --seed 7 --quality best
      clipcanvas draw "a face" --init-image photo.jpg -O init_weight=0.3 --video mp4
      clipcanvas draw "a green tree" --detach
    """
    width, height = _size(size)
    options = {"init_image": init_image, "mask": mask} | dict(_option(item) for item in option or [])
    options = {name: value for name, value in options.items() if value is not None}
    save = dict(_option(item, "--save") for item in keep or [])
    format = format or (FORMATS.get(output.suffix.lower()) if output else None)
    save |= {name: value for name, value in (("format", format), ("video", video)) if value is not None}
    if output:
        check_folder(output)
    with console.connect(url, api_key) as client:
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
            console.print_json(job.model_dump(mode="json")) if as_json else print(job.id)
            return
        try:
            ended, saved = follow(
                job, output or Path(f"{job.id}.{SUFFIXES.get(format or 'png')}"), preview=preview
            )
        except KeyboardInterrupt:
            _cancel_interrupted(job.id, url, api_key)
            raise typer.Exit(console.INTERRUPTED) from None
    if as_json:
        console.print_json(ended.model_dump(mode="json") | {"saved": [str(path) for path in saved]})
        return
    for path in saved:
        print(path)
    seconds = (
        (ended.finished_at - ended.started_at).total_seconds()
        if ended.finished_at and ended.started_at
        else 0
    )
    console.note(f"{ended.id} took {seconds:.1f} s with seed {ended.request.get('seed')}")


def follow(job: "ClientJob", output: Path, *, preview: bool = True) -> "tuple[ClientJob, list[Path]]":
    """Show a job's progress until the job succeeds, and save its images, videos and other files.

    Args:
        output: path of the first image. Further images get a number, other files get their own name after
            the stem. While the job runs, the newest preview lies beside it.
        preview: show previews, if the terminal can.

    Raises:
        JobUnsuccessful: the job ended without images.
    """
    from clipcanvas.cli.terminal.progress import ProgressDisplay
    from clipcanvas.client.job import write_whole

    preview_path = output.with_name(f"{output.stem}.preview.jpg")
    previewed = False
    try:
        with ProgressDisplay(job, preview=preview) as display:
            for event in job.events():
                display.show(event)
                if event.preview:
                    display.previewed(write_whole(preview_path, job.output(event.preview.name)))
                    previewed = True
        ended = job.wait()
        saved = save_outputs(ended, output)
    except BaseException:
        if previewed:
            console.note(f"the last preview is {preview_path}")
        raise
    preview_path.unlink(missing_ok=True)
    return ended, saved


def _cancel_interrupted(job_id: str, url: str, api_key: str | None) -> None:
    from clipcanvas.client.errors import ApiError

    with console.connect(url, api_key) as client:  # the first client was interrupted within a response
        try:
            client.cancel(job_id)
        except ApiError as error:
            if error.status != 409:
                raise
            console.note(f"{job_id} had ended already")
            return
    console.note(f"canceled {job_id}")


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
