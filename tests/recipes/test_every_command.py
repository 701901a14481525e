"""Every command in the README, in the docs and beside figures is run by a test or a script, named here.

Benchmarks and trainings compute for hours: of those the command lines are read, by the programs themselves.
"""

import argparse
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from PIL import Image

from app.jobs.schemas import JobRequest
from app.settings import ApiKey
from clipcanvas.cli.main import app as cli
from models.generators import available
from tests.recipes.conftest import ROOT

pytestmark = pytest.mark.timeout(300)

PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "training/README.md", "benchmarks/results.md")
    ),
    *ROOT.glob("docs/*.md"),
]
BLOCKS_ARE_RUN_BY = {  # all of them
    "README.md": "tests/recipes/test_readme.py",
    "api.md": "tests/recipes/test_api_page.py",
    "recipes.md": "tests/recipes/test_recipes.py",
}
PROGRAMS = {
    "python",
    "make",
    "clipcanvas",
    "docker",
    "curl",
    "npm",
    "npx",
    "pip",
    "pytest",
    ".venv/bin/pytest",
}
VERBS_ARE_RUN_BY = {
    **dict.fromkeys(("check", "test", "test-page", "test-recipes"), ".ci/run"),
    **dict.fromkeys(("demo", "serve"), "tests/recipes/test_readme.py"),
    "test-chaos": "tests/chaos/test_chaos.py",
}
SERVICE = "tests/e2e/conftest.py"  # runs it
MEANT = {"MODEL": "demo-photo", "DTYPE": "fp32", "CLIP": "demo-icons", "…": "elsewhere"}
MODULE = r"python -m ((?:benchmarks|training|tests)\S*)([^;|\n]*)"


class WasRead(Exception):
    """A program has understood its command line."""


def commands() -> Iterator[str]:
    """The commands of all pages, in blocks and in `quotes`; no blocks that a test takes whole."""
    for page in PAGES:
        text = page.read_text()
        if page.name not in BLOCKS_ARE_RUN_BY:
            blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
            yield from (line for line in "".join(blocks).splitlines() if line)
        rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        for quoted in re.findall(r"`([^`]+)`", rest):
            words = quoted.split()
            if len(words) > 1 and PROGRAMS & {*without_variables(words)[:1]}:
                yield " ".join(words)


def without_variables(words: list[str]) -> list[str]:
    """A command line from its program on."""
    while words and re.match(r"env$|-u$|[A-Z_0-9]+(=|$)", words[0]):
        words = words[1:]
    return words


@pytest.mark.parametrize("command", sorted(set(commands())), ids=lambda command: command)
def test_a_command_is_run_by_something(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in re.sub(r"\s#.*", "", command).split("&&"):
        words = [MEANT.get(word, word) for word in without_variables(shlex.split(part))]
        match words:
            case ["make", verb] if verb in VERBS_ARE_RUN_BY:
                assert (ROOT / VERBS_ARE_RUN_BY[verb]).exists()
            case ["make", verb]:
                for module, rest in re.findall(MODULE, printed_by(["make", "-n", verb]).replace("\\\n", "")):
                    read_module(module, shlex.split(rest))
            case ["python", "-m", "app", "key", name]:
                told = printed_by([sys.executable, *words[1:]])
                [entry] = re.findall(r"^CLIPCANVAS_API_KEYS='\[(.*)\]'$", told, re.MULTILINE)
                assert ApiKey.model_validate_json(entry).name == name
            case ["python", "-m", "app" | "workers", *_]:
                assert (ROOT / SERVICE).exists()
            case ["python", "-m", module, *rest]:
                read_module(module, rest)
            case ["python", "docs/concepts/draw.py"]:
                pass  # below
            case ["clipcanvas", *rest]:
                monkeypatch.chdir(tmp_path)
                for word in rest:  # what it names is there
                    if Path(word).suffix:
                        Path(word).touch()
                    elif word == "FOLDER" or "/" in word:
                        Path(word).mkdir(parents=True)
                read_cli(rest)
            case ["curl", *rest] if "-d" in rest:
                assert "http://127.0.0.1:8000/v1/jobs" in rest
                asked = JobRequest.model_validate_json(rest[rest.index("-d") + 1])
                assert asked.generator in available()
            case [".venv/bin/python", "-m", "pip", "install", "-e", extra, "-c", constraints]:
                extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
                    "optional-dependencies"
                ]
                assert extra in {f".[{name}]" for name in extras}
                assert (ROOT / constraints).exists()
            case ["docker", "compose", *rest]:
                check_compose(rest)
            case [".venv/bin/pytest", folder]:
                assert (ROOT / folder).is_dir()
            case _:
                pytest.fail(f"nothing runs {part!r}")


def test_no_block_of_the_readme_is_left_out() -> None:
    """The tests of the other pages that are taken whole say so themselves."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```(?:sh|bash|python)\n(\S+).*?^```", text, re.DOTALL | re.MULTILINE)
    assert blocks == ["make", "curl", "URL=http://127.0.0.1:8000", ".venv/bin/clipcanvas", "from", "from"]
    assert all((ROOT / test).exists() for test in BLOCKS_ARE_RUN_BY.values())


def test_the_pictures_of_the_concepts_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `python docs/concepts/draw.py`, here in two steps."""
    spec = importlib.util.spec_from_file_location("concepts", ROOT / "docs/concepts/draw.py")
    assert spec is not None
    assert spec.loader is not None
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    monkeypatch.setattr(draw, "HERE", tmp_path)
    monkeypatch.setattr(draw, "SHOWN_STEPS", (1, 2))
    draw.main()
    for name in ("codes", "cutouts", "steps"):
        with Image.open(tmp_path / f"{name}.webp") as drawn:
            height = drawn.height
        with Image.open(ROOT / f"docs/concepts/{name}.webp") as shown:
            assert height == shown.height


def test_a_contact_sheet_is_drawn(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    small = ["--generator", "gradient", "--size", "32"]
    told = printed_by([sys.executable, "-m", "benchmarks.drawing.contact_sheet", str(sheet), *small])
    assert told.count("32x32") == 8
    with Image.open(sheet) as drawn:
        assert drawn.width == 4 * 192


def printed_by(words: list[str]) -> str:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def read_module(module: str, rest: list[str]) -> None:
    """Run a module until it has read its command line; told by its name alone, it may ask for more."""
    read = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: Any, **options: Any) -> None:
        read(self, *args, **options)
        raise WasRead

    is_package = (ROOT / module.replace(".", "/")).is_dir()
    main = importlib.import_module(f"{module}.__main__" if is_package else module).main
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", [module, *rest])
        with pytest.raises(WasRead if rest else (WasRead, SystemExit)):
            main()


def read_cli(rest: list[str]) -> None:
    """Let the command line be read, and no command begin; told by its name alone, it may ask for more."""
    command: Any = typer.main.get_command(cli)
    words, context, is_group = rest, None, True
    while words and is_group:
        context = command.make_context(command.name or "clipcanvas", words, parent=context)
        is_group = hasattr(command, "resolve_command")
        if is_group:
            _, command, words = command.resolve_command(context, context._protected_args + context.args)


def check_compose(words: list[str]) -> None:
    """The files fit together, and what they build is in the Dockerfile; `make check` knows their schema."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-f", action="append")
    parser.add_argument("verb", choices=["up"])
    stages = re.findall(r"^FROM .* AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    files = parser.parse_args(words).f or ["docker-compose.yml"]
    base, *over = [yaml.safe_load((ROOT / file).read_text())["services"] for file in files]
    assert {service["build"]["target"] for service in base.values() if "build" in service} <= {*stages}
    assert all(changes.keys() <= base.keys() for changes in over)
