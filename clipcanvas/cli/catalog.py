"""Run the catalog of models in its own process: clipcanvas imports neither torch nor `models`."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from clipcanvas.launcher.service import PROJECT

Report = Callable[[str, int, int | None], None]
"""Takes the stage, the bytes done, and the bytes in all, or None if unknown."""

_PROBLEMS = {
    "usage": ("UnknownModel", "CannotConvert"),
    "unreachable": ("TransferFailed", "Absent", "Offline", "NoPlace"),
    "refused": ("UnsafeCheckpoint", "WeightsCorrupt", "WeightsUnusable"),
}
"""Names of the exceptions of `models`, by the problem that a caller sees."""


class CatalogError(Exception):
    """The catalog refused or failed; the message gives the reason and a remedy.

    Attributes:
        problem: `usage`, `unreachable`, `refused` or `failed`.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.problem = next((problem for problem, kinds in _PROBLEMS.items() if kind in kinds), "failed")


def run(arguments: Sequence[str], report: Report = lambda what, done, total: None) -> Any:
    """Run `python -m models.catalog` and return its result.

    Raises:
        CatalogError: the command failed.
    """
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-P", "-m", "models.catalog", *arguments]
    last: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    with contextlib.suppress(ValueError):  # a library may print lines of its own
                        last = json.loads(line)
                    if "progress" in last:
                        report(*last["progress"])
                code = process.wait()
            except BaseException:
                process.send_signal(signal.SIGINT)
                raise
        errors.seek(0)
        error_lines = errors.read().strip().splitlines()
    if "result" in last:
        return last["result"]
    if "error" in last:
        raise CatalogError(last["error"], last["type"])
    raise CatalogError(error_lines[-1] if error_lines else f"the process ended with {code}", "")
