"""The command line: `clipcanvas COMMAND`; each command says more with --help."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from clipcanvas.cli import clip, collections, draw, index, jobs, models, top, transfer
from clipcanvas.cli.terminal import console
from clipcanvas.cli.terminal.console import DEFAULT_URL, AsJson, Url

app = typer.Typer(
    help="Classify and search images with CLIP, draw them with VQGAN+CLIP: run the service or use it.",
    epilog=console.EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; every error ends in one clear line and its exit code."""
    try:
        app()
    except Exception as error:
        from clipcanvas.cli.catalog import CatalogError
        from clipcanvas.client.errors import ClipcanvasError
        from clipcanvas.launcher.child_process import GaveUp
        from clipcanvas.launcher.service import StartRefused

        if not isinstance(error, ClipcanvasError | CatalogError | StartRefused | GaveUp | OSError):
            raise  # a bug of clipcanvas: show the traceback
        sys.exit(console.explain(error))


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(f"clipcanvas {version('clipcanvas')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    host: Annotated[str, typer.Option(envvar="CLIPCANVAS_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="CLIPCANVAS_PORT", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 8000,
    data: Annotated[Path, typer.Option(help="Folder of everything that is kept.")] = Path("data"),
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw; 0: no indexer either.")] = 1,
    redis: Annotated[
        str | None,
        typer.Option(
            envvar="CLIPCANVAS_REDIS_URL",
            metavar="URL",
            help="Redis 8 to use; without, one is started that keeps its data in the data folder.",
        ),
    ] = None,
) -> None:
    """Run the whole service on this machine.

    Redis, the API, workers, an indexer, the janitor and the webhook sender run as child processes, until
    Ctrl-C.

    \b
    Examples:
      clipcanvas serve
      clipcanvas serve --port 9000 --data /srv/clipcanvas --workers 2
      clipcanvas serve --redis redis://localhost:6379/0
    """
    import asyncio
    import os

    from clipcanvas.launcher import service

    plan = service.ServicePlan(host, port, data, workers, redis, dict(os.environ))
    asyncio.run(service.serve(plan))


app.command()(clip.classify)
app.command()(clip.embed)
app.command()(clip.rank)
app.command()(index.index)
app.command()(collections.search)
app.add_typer(collections.collections, name="collections")
collections.collections.command()(transfer.export)
collections.collections.command("import")(transfer.import_)
collections.collections.command()(transfer.reindex)
app.command()(draw.draw)
app.add_typer(jobs.jobs, name="jobs")
app.command()(top.top)
app.add_typer(models.models, name="models")


@app.command()
def doctor(
    data: Annotated[Path, typer.Option(help="Data folder of the service.")] = Path("data"),
    port: Annotated[int, typer.Option(help="Port that `serve` would use.")] = 8000,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Say what is missing here, and how to mend it.

    Looks at everything that `serve` needs on this machine, and at the service that runs.

    \b
    Examples:
      clipcanvas doctor
      clipcanvas doctor --port 9000 --data /srv/clipcanvas
    """
    import dataclasses

    from clipcanvas.launcher import doctor as diagnosis

    findings = diagnosis.examine(data, port, url)
    if as_json:
        console.print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        console.print_table(
            ["", "what", "found", "to do"],
            [(finding.state, finding.name, finding.found, finding.mend) for finding in findings],
        )
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(console.UNSUCCESSFUL)
