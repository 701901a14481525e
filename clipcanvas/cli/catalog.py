"""The catalog of models, asked in a process of its own: this package imports neither torch nor `models`."""

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

Tell = Callable[[str, int, int | None], None]
"""Called with what is done, how many bytes of it are, and of how many; none: nobody knows."""

_PROBLEMS = {
    "usage": ("UnknownModel", "CannotConvert"),
    "unreachable": ("TransferFailed", "Absent", "Offline", "NoPlace"),
    "refused": ("UnsafeCheckpoint", "WeightsCorrupt", "WeightsUnusable"),
}
"""The exceptions of `models`, by name, that come to the same for whoever asked."""


class CatalogError(Exception):
    """What was asked for could not be done; the message says why, and what to do.

    Attributes:
        problem: `usage`, `unreachable`, `refused` or `failed`.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.problem = next((problem for problem, kinds in _PROBLEMS.items() if kind in kinds), "failed")


def ask(arguments: Sequence[str], tell: Tell = lambda what, done, total: None) -> Any:
    """What `python -m models.catalog` answers.

    Raises:
        CatalogError: it could not be done.
    """
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-P", "-m", "models.catalog", *arguments]
    last: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+") as complaints:
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=complaints, text=True
        ) as process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    with contextlib.suppress(ValueError):  # a library that prints
                        last = json.loads(line)
                    if "progress" in last:
                        tell(*last["progress"])
                code = process.wait()
            except BaseException:
                process.send_signal(signal.SIGINT)
                raise
        complaints.seek(0)
        said = complaints.read().strip().splitlines()
    if "result" in last:
        return last["result"]
    if "error" in last:
        raise CatalogError(last["error"], last["type"])
    raise CatalogError(said[-1] if said else f"the process ended with {code}", "")
