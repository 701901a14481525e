"""Commands that move a collection: export, import, reindex."""

import itertools
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from clipcanvas.cli.collections import Name
from clipcanvas.cli.terminal import console
from clipcanvas.cli.terminal.console import DEFAULT_URL, ApiKey, AsJson, Model, Url

BOUND = ("quantization", "m", "ef_construction")  # settings that an import copies, beside the model


def export(
    collection: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="To write: lines of JSON, vectors in base64.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Write a collection to a file, which import reads. Thumbnails are not in it.

    \b
    Examples:
      clipcanvas collections export holidays holidays.ndjson
    """
    part = file.with_name(f".{file.name}.part")
    try:
        with console.connect(url, api_key) as client, part.open("w", encoding="utf-8") as lines:
            there = client.collection(collection)
            with console.progress_bar(f"exporting {collection}", there.info().count) as advance:
                for count, line in enumerate(there.export()):  # the first is the collection's own
                    lines.write(json.dumps(line, ensure_ascii=False) + "\n")
                    advance(count)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    _print_count(count, str(file), as_json)


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What export wrote.", exists=True, dir_okay=False)
    ],
    collection: Annotated[
        str | None,
        typer.Option("--collection", "-c", metavar="NAME", help="Default: as in the export."),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Add the images of an export, and create the collection if it does not exist. Safe to run again.

    \b
    Examples:
      clipcanvas collections import holidays.ndjson --collection copy
    """
    from clipcanvas.client.collections.results import NewImage

    with console.connect(url, api_key) as client, file.open(encoding="utf-8") as lines:
        card = _line(next(lines, ""), file, "name", "model", "count", *BOUND)
        there = client.collection(collection or card["name"])
        there.create(model=card["model"], **{name: card[name] for name in BOUND})
        count = 0
        with console.progress_bar(f"importing into {there.name}", card["count"]) as advance:
            while some := list(itertools.islice(lines, 500)):
                images = [
                    NewImage(**_line(text, file, "id", "vector", "metadata", "source_url")) for text in some
                ]
                count += len(there.add(images, model=card["model"]).data)
                advance(count)
    _print_count(count, there.name, as_json)


def reindex(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A collection that keeps thumbnails.")],
    collection: Annotated[str, typer.Argument(metavar="TO", help="Created if it does not exist.")],
    model: Model = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Embed the thumbnails of a collection with another collection's model. Safe to run again.

    \b
    Examples:
      clipcanvas collections reindex holidays icons --model demo-icons
    """
    added, after = 0, None
    skipped: dict[str, str] = {}
    with console.connect(url, api_key) as client:
        there = client.collection(collection)
        there.create(model=model)
        with console.progress_bar(
            f"embedding into {collection}", client.collection(source).info().count
        ) as advance:
            while True:
                page = there.reindex(source, after=after)
                added, after = added + page.added, page.last_id
                skipped |= {item.id: item.detail for item in page.skipped}
                advance(added + len(skipped))
                if not page.has_more:
                    break
    for image_id, why in skipped.items():
        console.note(f"  {image_id}: {why}")
    _print_count(added, collection, as_json)


def _line(text: str, file: Path, *names: str) -> dict[str, Any]:
    """These fields of a line of an export."""
    try:
        line = json.loads(text)
        return {name: line[name] for name in names}
    except (ValueError, TypeError, KeyError):
        raise typer.BadParameter(f"{file} is no export of a collection", param_hint="FILE") from None


def _print_count(count: int, where: str, as_json: bool) -> None:
    console.print_json({"images": count, "in": where}) if as_json else print(f"{count} images in {where}")
