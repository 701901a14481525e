"""A conversion in a process of its own, which is bounded in memory and time and knows no secrets.

No pickle is opened anywhere else: `models.weights_io.unpickle` is what runs there.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from models import weights_io
from models.catalog.download import Progress
from models.weights_io import WeightsUnusable
from models.weights_io.unpickle import DTypeName

ROOT = Path(__file__).resolve().parents[2]  # where the package `models` is

_MEMORY_TIMES = 4  # of the file: it is read, converted, copied and written
_MEMORY_BESIDE = 2 * 2**30
_KEPT = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR")  # of the environment: nothing secret


@dataclass(frozen=True)
class How:
    """How to convert, and what that may take.

    Args:
        dtype: of the floating-point tensors; none: as they are.
        decoder_only: of a VQGAN, leave the encoder behind.
        memory: bytes; none: by the size of the file.
        seconds: of a processor, and twice that by the clock.
    """

    dtype: DTypeName | None = None
    decoder_only: bool = False
    memory: int | None = None
    seconds: int = 1800


def run(source: Path, target: Path, tell: Progress, how: How = How()) -> dict[str, str]:
    """Convert in a process of its own; returns what `unpickle.convert` does, and the `sha256`."""
    if not source.is_file():
        raise weights_io.WeightsMissing(f"{source} is not there")
    memory = how.memory or _MEMORY_BESIDE + _MEMORY_TIMES * source.stat().st_size
    command = [sys.executable, "-P", "-m", "models.weights_io.unpickle", str(source), str(target)]
    command += [f"--memory={memory}", f"--seconds={how.seconds}"]
    command += [f"--dtype={how.dtype}"] if how.dtype else []
    command += ["--decoder-only"] if how.decoder_only else []
    environment = {key: os.environ[key] for key in _KEPT if key in os.environ} | {"PYTHONPATH": str(ROOT)}
    tell("opening", 0, None)
    last: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+") as complaints:
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        ) as process:
            clock = threading.Timer(2 * how.seconds, process.kill)
            clock.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    last = json.loads(line)
                    if "progress" in last:
                        tell("converting", *last["progress"])
                process.wait()
            finally:
                clock.cancel()
                process.kill()
        complaints.seek(0)
        said = complaints.read().strip().splitlines()
    if "result" in last:
        return cast(dict[str, str], last["result"])
    if "error" in last:
        raise getattr(weights_io, str(last["type"]), WeightsUnusable)(last["error"])
    raise WeightsUnusable(f"{source} was not converted: {_why(process.returncode, memory, how, said)}")


def _why(code: int, memory: int, how: How, said: list[str]) -> str:
    if code in (-signal.SIGKILL, -signal.SIGXCPU):
        return f"it took more than {how.seconds} s"
    if code < 0 or any("MemoryError" in line or "not enough memory" in line for line in said):
        return f"it took more than {memory / 2**30:.1f} GiB"
    return said[-1] if said else f"the process ended with {code}"
