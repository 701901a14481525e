"""Every file of code that the docs name is there, and so is every test that they name within it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = "app|benchmarks|clipcanvas|docs|examples|jobs|models|storage|tests|training|workers"
NAMED = re.compile(rf"\b((?:{FOLDERS})/[\w/.-]*\.(?:py|lua|toml))\b(?:(?:::|: )(test_\w+))?")
PAGES = [*ROOT.glob("*.md"), ROOT / "training/README.md", *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_and_tests_exist(page: Path) -> None:
    for path, name in NAMED.findall(page.read_text()):
        assert (ROOT / path).is_file(), path
        assert not name or f"def {name}(" in (ROOT / path).read_text(), f"{path} has no {name}"
