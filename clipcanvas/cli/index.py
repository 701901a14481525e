"""The command `index`: add a local folder, or images that the service reads itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcanvas.cli.terminal import console
from clipcanvas.cli.terminal.console import DEFAULT_URL, ApiKey, AsJson, Model, Url

if TYPE_CHECKING:
    from clipcanvas.client.batches import Outcome
    from clipcanvas.client.client import Client
    from clipcanvas.client.collections.collection import Collection
    from clipcanvas.client.results import Job


def index(
    collection: Annotated[
        str,
        typer.Option("--collection", "-c", metavar="NAME", help="Created if it does not exist."),
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER", help="Local folder of images to send.", exists=True, file_okay=False
        ),
    ] = None,
    server_folder: Annotated[
        str | None,
        typer.Option("--server-folder", metavar="NAME/PATH", help="Instead: a folder of the service."),
    ] = None,
    urls: Annotated[
        Path | None,
        typer.Option(
            "--urls", metavar="FILE", help="Instead: URLs, one a line.", exists=True, dir_okay=False
        ),
    ] = None,
    tar: Annotated[
        Path | None,
        typer.Option(
            "--tar", metavar="FILE", help="Instead: a tar, not compressed.", exists=True, dir_okay=False
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Add images that it has already, too.")] = False,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="For a new collection: keep a thumbnail of each image.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, max=64, help="Images in one request.")] = 32,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the job's id, do not wait; not with FOLDER.")
    ] = False,
    model: Model = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Add many images to a collection; run the command again to continue after an interruption.

    The id of an image is its path in the folder; a/b.json holds the metadata of a/b.jpg, if that file exists.
    Images that the service reads itself are added by a job, which goes on after Ctrl-C.

    \b
    Examples:
      clipcanvas index photos --collection holidays
      clipcanvas index -c holidays --server-folder photos/2024
      clipcanvas index -c holidays --tar photos.tar --thumbnails
    """
    sources = {"folder": server_folder, "urls": urls, "archive": tar}
    if sum(source is not None for source in (folder, *sources.values())) != 1:
        raise typer.BadParameter("give one of FOLDER, --server-folder, --urls and --tar", param_hint="FOLDER")
    with console.connect(url, api_key) as client:
        there = client.collection(collection)
        there.create(model=model, thumbnails=thumbnails or None)
        if folder is not None:
            outcome = _send(there, folder, again, batch)
            counts: dict[str, Any] = {"added": outcome.added, "known": outcome.known}
            refused = outcome.failed
        else:
            job = there.index(**_source_fields(sources), replace=again)
            if detach:
                console.print_json(job.model_dump(mode="json")) if as_json else print(job.id)
                return
            counts, refused = _follow(client, job)
    if as_json:
        console.print_json({**counts, "failed": refused})
    else:
        numbers = ", ".join(f"{count} {_WORDS[name]}" for name, count in counts.items())
        print(f"{numbers}, {len(refused)} failed")
        for image_id, why in refused.items():
            console.note(f"  {image_id}: {why}")
    if refused:
        raise typer.Exit(console.UNSUCCESSFUL)


_WORDS = {"added": "added", "replaced": "replaced", "known": "known already"}


def _send(there: "Collection", folder: Path, again: bool, batch: int) -> "Outcome":
    from clipcanvas.client.batches import find_images, index_folder

    paths = find_images(folder, console.IMAGE_SUFFIXES)
    with console.progress_bar(f"indexing into {there.name}", len(paths)) as advance:
        return index_folder(there, folder, paths, again=again, batch=batch, progress=advance)


def _source_fields(sources: dict[str, Any]) -> dict[str, Any]:
    if sources["urls"] is not None:
        lines = sources["urls"].read_text("utf-8").splitlines()
        return {"urls": [line.strip() for line in lines if line.strip()]}
    return {name: source for name, source in sources.items() if source is not None}


def _follow(client: "Client", job: "Job") -> tuple[dict[str, int], dict[str, str]]:
    """Show a job's progress until its end; return the counts, and why each image was refused."""
    from clipcanvas.client.job import successful

    try:
        with console.progress_bar(job.id, 100) as advance:
            for event in client.events(job.id):
                if progress := event.progress:
                    advance(round(100 * progress.fraction))
                job = event.job or job
    except KeyboardInterrupt:
        console.note(f"{job.id} goes on; `clipcanvas jobs cancel {job.id}` stops it")
        raise typer.Exit(console.INTERRUPTED) from None
    report = client.index_report(successful(job).id)
    return (
        {"added": report.added, "replaced": report.replaced, "known": report.known},
        {item.id: item.detail for item in report.refusals},
    )
