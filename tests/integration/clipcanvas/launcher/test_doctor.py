"""`clipcanvas doctor` finds what is missing, says how to mend it, and ends with 1 if something is."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(150)


def examine(data: Path, *options: str, **settings: str) -> tuple[int, dict[str, dict[str, Any]]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    argv = [sys.executable, "-m", "clipcanvas", "doctor", "--json", "--data", str(data), "--url", url]
    ended = subprocess.run(
        [*argv, *options], env={**os.environ, **settings}, capture_output=True, text=True, timeout=140
    )
    assert not ended.stderr
    return ended.returncode, {finding["name"]: finding for finding in json.loads(ended.stdout)}


def test_on_this_machine_nothing_is_missing(tmp_path: Path) -> None:
    code, findings = examine(tmp_path, "--port", "0")
    states = {name: finding["state"] for name, finding in findings.items()}
    assert code == 0, findings
    assert "missing" not in states.values()
    assert states["Redis"] == states["weights"] == states["packages"] == states["port"] == "ok"
    assert findings["Redis"]["found"].startswith("embedded server 8.")
    assert findings["service"]["mend"] == "`clipcanvas serve` starts it"


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        settings = {"CLIPCANVAS_WEIGHTS": str(tmp_path / "weights")}
        code, findings = examine(tmp_path, "--port", port, **settings)
    assert code == 1
    assert findings["weights"]["state"] == "missing"
    assert str(tmp_path / "weights") in findings["weights"]["found"]
    assert "CLIPCANVAS_WEIGHTS" in findings["weights"]["mend"]
    assert f"port {port} of 127.0.0.1 is in use" in findings["port"]["found"]


def test_settings_that_are_wrong_are_told_in_one_line(tmp_path: Path) -> None:
    code, findings = examine(tmp_path, "--port", "0", CLIPCANVAS_VQGAN="no-such-card")
    assert code == 1
    assert "no model 'no-such-card'" in findings["weights"]["found"]
