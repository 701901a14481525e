"""The tree: small folders that say what they are for, and module names that say which module is meant."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CODE = ("app", "clipcanvas", "jobs", "models", "storage", "training", "workers")
DATA = {"weights", "cards", "static"}  # folders of files that no one reads as code
SHARED_NAMES = {
    "routes": "each room of the HTTP API has its routes",
    "schemas": "each room of the HTTP API has its requests and responses",
    "settings": "each process reads its own",
    "task": "each type of job has the work of a worker",
}
"""Names that several modules of `app`, `jobs`, `storage`, `workers` and `models` may have, and why."""


def folders(*packages: str) -> list[Path]:
    found = [ROOT / package for package in packages]
    for folder in found:
        found += [
            path
            for path in sorted(folder.iterdir())
            if path.is_dir() and path.name not in DATA | {"__pycache__"}
        ]
    return [folder for folder in found if any(folder.rglob("*.py"))]


@pytest.mark.parametrize(
    "folder", folders(*CODE, "benchmarks", "tests"), ids=lambda folder: str(folder.relative_to(ROOT))
)
def test_a_folder_has_at_most_twelve_entries(folder: Path) -> None:
    entries = {path.name for path in folder.iterdir()} - DATA - {"__pycache__", "results", "README.md"}
    assert len(entries) <= 12, sorted(entries)


@pytest.mark.parametrize("folder", folders(*CODE), ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_says_what_it_is_for(folder: Path) -> None:
    source = (folder / "__init__.py").read_text(encoding="utf-8")
    assert source.startswith('"""'), "the docstring says the purpose and what may be imported"


def test_a_module_has_a_name_of_its_own() -> None:
    modules = defaultdict(list)
    for package in ("app", "jobs", "storage", "workers", "models"):
        for path in (ROOT / package).rglob("*.py"):
            if not path.stem.startswith("__"):
                modules[path.stem].append(str(path.relative_to(ROOT)))
    shared = {name: paths for name, paths in modules.items() if len(paths) > 1}
    assert len(SHARED_NAMES) <= 5
    assert shared.keys() <= SHARED_NAMES.keys(), shared


@pytest.mark.parametrize("package", [*CODE, "benchmarks"])
def test_a_file_is_one_subject(package: str) -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / package).rglob("*.py")
    }
    assert not {name: length for name, length in lengths.items() if length > 350}


def test_no_test_imports_from_a_test() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if re.search(
            r"^ *from tests\.[\w.]*\.test_\w+ import", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert not found, "what tests share lies in tests/support or in a conftest"
