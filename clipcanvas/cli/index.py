"""The command that indexes: a folder from here, or what the service itself can reach."""

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
        str, typer.Option("--collection", "-c", metavar="NAME", help="Made if it is not there.")
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER", help="Folder of pictures, sent from here.", exists=True, file_okay=False
        ),
    ] = None,
    server_folder: Annotated[
        str | None,
        typer.Option(
            "--server-folder", metavar="NAME/PATH", help="Instead: a folder that the service may index."
        ),
    ] = None,
    urls: Annotated[
        Path | None,
        typer.Option(
            "--urls", metavar="FILE", help="Instead: addresses, one a line.", exists=True, dir_okay=False
        ),
    ] = None,
    tar: Annotated[
        Path | None,
        typer.Option(
            "--tar", metavar="FILE", help="Instead: a tar, not compressed.", exists=True, dir_okay=False
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Add those that are there already, too.")] = False,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="If it is new: keep small pictures.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, max=64, help="Pictures in one request.")] = 32,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the job's id, do not wait; not of a folder from here.")
    ] = False,
    model: Model = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Add many pictures to a collection; run it again to go on where it broke off.

    A picture's id is its path in the folder; a/b.json, if it is there, holds the metadata of a/b.jpg. What
    the service reads itself is a job: Ctrl-C leaves it alone.

    \b
    Examples:
      clipcanvas index photos --collection holidays
      clipcanvas index -c holidays --server-folder photos/2024
      clipcanvas index -c holidays --tar photos.tar --thumbnails
    """
    sources = {"folder": server_folder, "urls": urls, "archive": tar}
    if sum(source is not None for source in (folder, *sources.values())) != 1:
        raise typer.BadParameter("say one of FOLDER, --server-folder, --urls and --tar", param_hint="FOLDER")
    with console.connect(url, api_key) as client:
        there = client.collection(collection)
        there.create(model=model, thumbnails=thumbnails or None)
        if folder is not None:
            outcome = _send(there, folder, again, batch)
            told: dict[str, Any] = {"added": outcome.added, "known": outcome.known}
            refused = outcome.failed
        else:
            job = there.index(**_asked(sources), replace=again)
            if detach:
                console.print_json(job.model_dump(mode="json")) if as_json else print(job.id)
                return
            told, refused = _follow(client, job)
    if as_json:
        console.print_json({**told, "failed": refused})
    else:
        numbers = ", ".join(f"{count} {_WORDS[name]}" for name, count in told.items())
        print(f"{numbers}, {len(refused)} failed")
        for image_id, why in refused.items():
            console.note(f"  {image_id}: {why}")
    if refused:
        raise typer.Exit(console.UNSUCCESSFUL)


_WORDS = {"added": "added", "replaced": "replaced", "known": "known already"}


def _send(there: "Collection", folder: Path, again: bool, batch: int) -> "Outcome":
    from clipcanvas.client.batches import find_pictures, index_folder

    paths = find_pictures(folder, console.IMAGE_SUFFIXES)
    with console.progress_bar(f"indexing into {there.name}", len(paths)) as tell:
        return index_folder(there, folder, paths, again=again, batch=batch, progress=tell)


def _asked(sources: dict[str, Any]) -> dict[str, Any]:
    if sources["urls"] is not None:
        lines = sources["urls"].read_text("utf-8").splitlines()
        return {"urls": [line.strip() for line in lines if line.strip()]}
    return {name: source for name, source in sources.items() if source is not None}


def _follow(client: "Client", job: "Job") -> tuple[dict[str, int], dict[str, str]]:
    """Show a job's progress; how many pictures became what, and which were refused, and why."""
    from clipcanvas.client.job import successful

    try:
        with console.progress_bar(job.id, 100) as tell:
            for event in client.events(job.id):
                if progress := event.progress:
                    tell(round(100 * progress.fraction))
                job = event.job or job
    except KeyboardInterrupt:
        console.note(f"{job.id} goes on; `clipcanvas jobs cancel {job.id}` stops it")
        raise typer.Exit(console.INTERRUPTED) from None
    report = client.index_report(successful(job).id)
    return (
        {"added": report.added, "replaced": report.replaced, "known": report.known},
        {item.id: item.detail for item in report.refusals},
    )
