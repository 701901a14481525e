"""Write the pages and tables that state facts of the code.

`cli.md` comes from --help, `settings.md` from the settings; tables of `models.md` and `architecture.md` come
from cards and docstrings.

`python docs/generate.py` writes them; with --check it only says whether they are up to date.
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.main import get_command
from typer.testing import CliRunner

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from app.settings import ApiSettings  # noqa: E402 - importable from any folder only now
from clipcanvas.cli.main import app  # noqa: E402
from jobs.settings import JobSettings  # noqa: E402
from models.catalog import entries  # noqa: E402
from workers.settings import WorkerSettings  # noqa: E402

CATALOG = ("<!-- catalog: written by docs/generate.py -->", "<!-- /catalog -->")
COLUMNS = {
    "clip": {
        "source": "source",
        "dimension": "embedding_dim",
        "pixels": "image_size",
        "tokens": "context_length",
    },
    "vqgan": {"codes": "codes", "pixels of a code": "pixels_per_code", "quantizer": "quantizer"},
    "min-dalle": {"codes": "codes", "pixels of a code": "pixels_per_code"},
    "unclip": {"pixels": "pixels"},
}
FOLDERS = (
    "<!-- folders: written by docs/generate.py from the docstring of each folder -->",
    "<!-- /folders -->",
)
PACKAGES = ("app", "jobs", "storage", "workers", "models", "clipcanvas", "training", "benchmarks")
WITHOUT_CODE = {
    "static": "HTML, CSS and JavaScript of the page, as the browser runs them.",
    "cards": "One card for each model: what it is, where its weights are, its license.",
    "peers": "Other servers of CLIP to compare with, started in environments of their own.",
    "results": "What the benchmarks measured: a page for each question, written by `make bench`.",
    "weights": "The weights files of the demo models, and of models that were pulled.",
}
"""What folders are for that have no `__init__.py`, by their name."""
GENERATED = "<!-- Written by docs/generate.py: edit the code, not this page. -->"


def main() -> int:
    """Write or check the pages; the exit code is 1 if one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a page is out of date")
    check = parser.parse_args().check
    stale = 0
    pages = {
        "cli.md": cli_page(),
        "settings.md": settings_page(),
        "models.md": models_page(),
        "architecture.md": architecture_page(),
    }
    for path, text in ((DOCS / name, text) for name, text in pages.items()):
        if path.exists() and path.read_text() == text:
            continue
        if check:
            sys.stderr.write(f"{path.relative_to(ROOT)} is out of date: run `make docs`\n")
            stale = 1
        else:
            path.write_text(text)
    return stale


def cli_page() -> str:
    """The help of every command."""
    parts = ["# The command line", GENERATED]
    for words in [(), *_commands(get_command(app))]:
        answer = CliRunner().invoke(app, [*words, "--help"], prog_name="clipcanvas", env={"COLUMNS": "100"})
        if answer.exit_code:
            raise RuntimeError(f"{words} --help failed: {answer.output}")
        title = " ".join(("clipcanvas", *words))
        parts.append(f"## {title}" if words else "")
        parts.append(f"```text\n{answer.output.strip()}\n```")
    return "\n\n".join(part for part in parts if part) + "\n"


def settings_page() -> str:
    """A table of every setting, by who reads it."""
    parts = [
        "# Settings",
        GENERATED,
        "Every setting is an environment variable. Lists are JSON. `clipcanvas serve` decides "
        "`CLIPCANVAS_HOST`, `CLIPCANVAS_PORT` and `CLIPCANVAS_REDIS_URL` by its options, keeps pictures in "
        "its data folder unless `CLIPCANVAS_STORE` says otherwise, and passes on all others.",
    ]
    shared = JobSettings.model_fields
    for title, fields in (
        ("The API and the workers", shared),
        ("The API", _own(ApiSettings.model_fields, shared)),
        ("The workers, the janitor and the webhook sender", _own(WorkerSettings.model_fields, shared)),
    ):
        rows = [
            f"| `CLIPCANVAS_{name.upper()}` | {_default(field)} | {_cell(field.description or '')} |"
            for name, field in fields.items()
        ]
        parts.append(
            "\n".join([f"## {title}\n", "| Variable | Default | Meaning |", "| --- | --- | --- |", *rows])
        )
    return "\n\n".join(parts) + "\n"


def models_page() -> str:
    """The page as it is, with the tables of the catalog."""
    before, rest = (DOCS / "models.md").read_text().split(CATALOG[0])
    after = rest.split(CATALOG[1])[1]
    catalog = [entry.describe() for entry in entries(DOCS / "no-weights")]
    tables = [
        _table(
            ("card", *columns, "download", "SHA-256", "memory", "license"),
            [
                (f"`{item['name']}`", *(item[key] for key in columns.values()), *_weights(item))
                for item in catalog
                if item["kind"] == kind and not item["name"].startswith("demo")
            ],
        )
        for kind, columns in COLUMNS.items()
    ]
    return "\n\n".join([f"{before}{CATALOG[0]}", *tables, f"{CATALOG[1]}{after}"])


def architecture_page() -> str:
    """The page as it is, with the table of folders."""
    before, rest = (DOCS / "architecture.md").read_text().split(FOLDERS[0])
    after = rest.split(FOLDERS[1])[1]
    rows = [
        (f"`{folder.relative_to(ROOT)}/`", _purpose(folder))
        for name in PACKAGES
        for folder in _folders(ROOT / name)
    ]
    return "\n\n".join(
        [f"{before}{FOLDERS[0]}", _table(("folder", "what it is for"), rows), f"{FOLDERS[1]}{after}"]
    )


def _folders(folder: Path) -> Iterator[Path]:
    """A folder and those below it that hold code, cards or files of the page; not what lies among weights."""
    if any(folder.glob("*.*")) or folder.name == "weights":
        yield folder
    if folder.name != "weights":
        for child in sorted(
            path for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"
        ):
            yield from _folders(child)


def _purpose(folder: Path) -> str:
    """The first sentence of a folder's docstring, or what `WITHOUT_CODE` says of its name."""
    if folder.name in WITHOUT_CODE:
        return WITHOUT_CODE[folder.name]
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    sentence = re.match(r".+?(?<=[.])(?=\s|$)", text.partition("\n\n")[0].replace("\n", " "))
    if sentence is None:
        raise RuntimeError(
            f"{folder.relative_to(ROOT)}/__init__.py does not say in a sentence what it is for"
        )
    return _cell(sentence[0])


def _weights(item: dict[str, Any]) -> tuple[str, str, str, str]:
    """What is to be known of the first place that has a model's weights."""
    memory, license = f"{item['memory'] / 1e9:.1f} GB", item["license"]
    if not item["downloads"]:
        return "no place is known", "", memory, license
    first = item["downloads"][0]
    mib = first["mib"] or round(item["weight_bytes"] / 2**20)
    on_the_hub = first["place"].startswith("hf-hub:")
    known = "in the card" if first["sha256"] else "told by the hub" if on_the_hub else "not published"
    where = "hub" if on_the_hub else first["place"].split("/")[2]
    return f"{mib:,} MiB, {where}", known, memory, license


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in row)} |"
        for row in cells
    )


def _commands(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*prefix, name)
        if hasattr(command, "commands"):
            yield from _commands(command, (*prefix, name))


def _own(fields: dict[str, FieldInfo], shared: dict[str, FieldInfo]) -> dict[str, FieldInfo]:
    return {name: field for name, field in fields.items() if name not in shared}


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "in the working folder" if field.default_factory else "none: must be set"
    if isinstance(value, Path):
        return f"`{value.relative_to(ROOT)}`" if value.is_relative_to(ROOT) else f"`{value}`"
    if isinstance(value, tuple | list):
        return f"`{json.dumps(value)}`"
    return f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
