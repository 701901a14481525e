"""Each row of the page of faults names tests that are there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/faults.md").read_text()
UNTESTED = ["A failover (Sentinel)"]


def test_each_named_test_exists():
    named = re.findall(r"`(tests/[^`:]+\.py)(?:::([^`]+))?`", PAGE)
    assert len(named) > 50
    for path, name in named:
        body = ast.parse((ROOT / path).read_text()).body
        for part in name.split("::") if name else ():
            found = [node for node in body if getattr(node, "name", None) == part]
            assert found, f"{path} has no {name}"
            body = found[0].body


def test_each_fault_but_the_one_said_to_be_untested_names_a_test():
    rows = re.findall(r"^\| (?!fault |---)([^|]+) \|.*$", PAGE, re.MULTILINE)
    without = re.findall(r"^\| (?!fault |---)([^|]+) \|.*\| +\|$", PAGE, re.MULTILINE)
    assert len(rows) > 35
    assert without == UNTESTED
