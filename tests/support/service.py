"""The service as real processes: a Redis of its own, the API, workers and the janitor, with short times."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from clipcanvas import Client, Job
from tests.support.redis_server import RedisServer

ENVIRONMENT = {
    "CLIPCANVAS_LEASE_S": "3",
    "CLIPCANVAS_HEARTBEAT_S": "0.5",
    "CLIPCANVAS_PROGRESS_EVERY_S": "0.1",
    "CLIPCANVAS_CHECKPOINT_EVERY_S": "0.5",
    "CLIPCANVAS_CLIP_PRELOAD": "[]",  # most of these tests need no CLIP in the API
    "CLIPCANVAS_CLIP_WARM_UP_S": "0",
    "OMP_NUM_THREADS": "1",
}
LOADED = {"CLIPCANVAS_CLIP_PRELOAD": '["demo-photo"]'}
"""Settings of a service whose readiness waits for its CLIP."""


class Service:
    """Processes that a test starts, kills and looks at; their output is in the test's folder."""

    def __init__(self, redis: RedisServer, folder: Path, **settings: str) -> None:
        self.redis, self.folder = redis, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            **ENVIRONMENT,
            "CLIPCANVAS_REDIS_URL": redis.url,
            "CLIPCANVAS_STORE": (folder / "store").as_uri(),
            "CLIPCANVAS_PORT": str(self.port),
            **settings,
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, **settings: str) -> subprocess.Popen[bytes]:
        """`python -m` that, with these settings beside the service's own."""
        log = (self.folder / f"{'-'.join(command)}-{len(self.processes)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], env={**self.environment, **settings}, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def worker(self, generators: str = '["gradient"]') -> subprocess.Popen[bytes]:
        return self.start("workers", CLIPCANVAS_GENERATORS=generators)

    def client(self) -> Client:
        return Client(self.url)

    def wait_until(self, promise: Callable[[], bool], seconds: float = 30) -> None:
        """Until it holds; a refused connection counts as not yet."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if promise():
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"not within {seconds} s\n{self.logs()}"
            time.sleep(0.05)

    def wait_for(self, job_id: str, promise: Callable[[Job], bool], seconds: float = 30) -> Job:
        with self.client() as client:
            self.wait_until(lambda: promise(client.job(job_id)), seconds)
            return client.job(job_id)

    def alive(self) -> bool:
        return httpx.get(f"{self.url}/livez").status_code == 200

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in self.folder.glob("*.log"))

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in self.processes:
            process.wait(10)
