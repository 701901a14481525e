"""The page of the architecture names each folder of code once, and only modules that are there."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/architecture.md").read_text()
PACKAGES = ("app", "jobs", "storage", "workers", "models", "clipcanvas", "training", "benchmarks")


def test_each_folder_is_named_once():
    listed = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    folders = {str(parent) for name in listed.stdout.split() for parent in Path(name).parents} - {"."}
    folders = {name for name in folders if "/weights/" not in name}
    named = re.findall(rf"`((?:{'|'.join(PACKAGES)})(?:/\w+)*)/`", PAGE)
    assert sorted(named) == sorted(folders)


def test_each_named_module_exists():
    modules = set(re.findall(rf"\b(?:{'|'.join(PACKAGES[:5])})(?:\.\w+)+", PAGE)) - {"app.jobs"}
    assert len(modules) > 30
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module
