"""What do the guarantees cost? Jobs per second, seconds until a job starts, and until it is taken over.

    python -m benchmarks.service.jobs --kills 10

Real processes: Redis with its append-only file, the API, the janitor and workers of the `gradient` generator,
with the settings' defaults. Times are those of the events that Redis keeps: no client's polling is in them.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import redis

from clipcanvas.launcher import redis_server
from jobs.record.record import key

ROOT = Path(__file__).parents[1]
SETTINGS = {"CLIPCANVAS_MAX_QUEUED_PER_KEY": "1000", "CLIPCANVAS_GENERATORS": '["gradient"]'}
QUICK: dict[str, Any] = {
    "generator": "gradient",
    "prompt": "a fox",
    "width": 64,
    "height": 64,
    "steps": 1,
    "seed": 1,
}
SLOW = {**QUICK, "steps": 5000, "options": {"delay_s": 0.02}}


class Service:
    """A running service and what a benchmark asks of it."""

    def __init__(self, folder: Path, stack: ExitStack, settings: Mapping[str, str] = SETTINGS) -> None:
        self._folder, self._stack = folder, stack
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        path = folder / "redis.sock"
        self._environment = {
            **os.environ,
            **settings,
            "CLIPCANVAS_REDIS_URL": redis_server.url(path),
            "CLIPCANVAS_STORE": (folder / "store").as_uri(),
            "CLIPCANVAS_PORT": str(port),
        }
        self.start(redis_server.command(redis_server.binary(), folder, path))
        wait_for(path.exists)
        self.start([sys.executable, "-m", "workers", "janitor"])
        self.start([sys.executable, "-m", "app"])
        self.http = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)
        )
        self.redis = redis.Redis.from_url(redis_server.url(path), decode_responses=True)
        wait_for(self._is_ready)  # with its CLIP: nothing loads while we measure

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """A process that ends with the benchmark."""
        return self._stack.enter_context(started(command, self._folder / "log", self._environment))

    def start_worker(self, **settings: str) -> subprocess.Popen[bytes]:
        """A worker, once it is idle; with settings of its own."""
        self._environment |= settings
        process = self.start([sys.executable, "-m", "workers"])
        wait_for(lambda: self.worker(process)["state"] == "idle")
        return process

    def worker(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """What a worker says that it does."""
        workers = self.http.get("/v1/queue").json()["workers"]
        mine = (worker for worker in workers if f"-{process.pid}-" in worker["name"])
        return next(mine, {"state": "unseen"})

    def create(self, request: dict[str, Any]) -> str:
        """A job's id, when the service has said 202."""
        answer = self.http.post("/v1/jobs", json=request)
        if answer.status_code != 202:
            raise SystemExit(answer.text)
        return str(answer.json()["id"])

    def wait_for_end(self, job_id: str) -> None:
        """Until a job is final."""
        wait_for(lambda: bool(self.http.get(f"/v1/jobs/{job_id}").json()["finished_at"]))

    def marks(self, job_id: str) -> list[tuple[float, str, str]]:
        """A job's events: seconds since the epoch, kind, JSON."""
        events = self.redis.xrange(key("events", job_id))
        return [
            (int(event_id.partition("-")[0]) / 1000, fields["event"], fields["data"])
            for event_id, fields in events
        ]

    def _is_ready(self) -> bool:
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False


def main() -> None:
    """Measure what is asked for, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.jobs", description=__doc__)
    parser.add_argument("--jobs", type=int, default=300, help="for jobs per second; 0 leaves it out")
    parser.add_argument("--starts", type=int, default=150, help="for the start latency; 0 leaves it out")
    parser.add_argument("--kills", type=int, default=0, help="of the only busy worker, about 15 s each")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start\n")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clipcanvas-")))
        service = Service(folder, stack)
        print(
            "| What | n | p50 | p95 | p99 | worst |\n| --- | ---: | ---: | ---: | ---: | ---: |", flush=True
        )
        if arguments.jobs:
            throughput(service, arguments.jobs)
        worker = service.start_worker() if arguments.starts or arguments.kills else None
        if arguments.starts:
            latency(service, arguments.starts)
        if arguments.kills and worker:
            takeover(service, arguments.kills, worker)


def throughput(service: Service, count: int) -> None:
    """A queue is filled, then a worker starts on it: first start to last end."""
    ids = [service.create(QUICK) for _ in range(count)]
    worker = service.start([sys.executable, "-m", "workers"])
    service.wait_for_end(ids[-1])
    first = min(_time_of(service.marks(job_id), "running") for job_id in ids)
    last = max(service.marks(job_id)[-1][0] for job_id in ids)
    print(
        f"| jobs per second, one worker, 1 step | {count} | {count / (last - first):.1f} | | | |", flush=True
    )
    worker.terminate()
    worker.wait(30)


def latency(service: Service, count: int) -> None:
    """One job after the other on an idle, warm worker."""
    rows: dict[str, list[float]] = {
        "ms from queued to started": [],
        "ms from queued to first step": [],
        "ms from 202 to first step": [],
        "ms from request to end": [],
    }
    for _ in range(count):
        time.sleep(random.uniform(0.1, 0.2))  # the worker is idle, at any point of its wait
        asked_s = time.time()
        job_id = service.create(QUICK)
        answered_s = time.time()
        service.wait_for_end(job_id)
        marks = service.marks(job_id)
        step_s = next(when for when, kind, _ in marks if kind == "progress")
        measured = (
            _time_of(marks, "running") - marks[0][0],
            step_s - marks[0][0],
            step_s - answered_s,
            marks[-1][0] - asked_s,
        )
        for row, seconds in zip(rows.values(), measured, strict=True):
            row.append(1000 * seconds)
    for name, values in rows.items():
        _print(name, values)


def takeover(service: Service, count: int, worker: subprocess.Popen[bytes]) -> None:
    """kill -9 of the busy worker while another one is idle: until the job runs again."""
    seconds: list[float] = []
    steps: list[float] = []
    for _ in range(count):
        worker, taken_s, again = _take_over(service, worker)
        seconds.append(taken_s)
        steps.append(again)
    _print("s from kill -9 of the busy worker to the job's next start", seconds)
    _print("steps of 20 ms that were done again", steps)


def _take_over(service: Service, busy: subprocess.Popen[bytes]) -> tuple[subprocess.Popen[bytes], float, int]:
    """One kill -> the worker that lives, the seconds it took, and the steps done again."""
    job_id = service.create(SLOW)
    wait_for(lambda: service.worker(busy)["state"] == "busy")
    idle = service.start_worker()
    time.sleep(random.uniform(6, 9))  # a checkpoint or two, at any point between two heartbeats
    killed_s = time.time()
    busy.kill()
    busy.wait(30)
    wait_for(lambda: len(_starts(service.marks(job_id))) == 2)
    again_s = _starts(service.marks(job_id))[1]
    wait_for(lambda: bool(_steps(service.marks(job_id), after_s=again_s)))
    marks = service.marks(job_id)
    service.http.post(f"/v1/jobs/{job_id}/cancel")
    service.wait_for_end(job_id)
    reached, resumed = _steps(marks, until_s=again_s)[-1], _steps(marks, after_s=again_s)[0] - 1
    return idle, again_s - killed_s, reached - resumed


def wait_for(promise: Callable[[], bool], seconds: float = 120) -> None:
    """Until it holds; ends the benchmark if that takes too long."""
    deadline_s = time.monotonic() + seconds
    while not promise():
        if time.monotonic() > deadline_s:
            raise SystemExit("the service did not do its part in time")
        time.sleep(0.02)


@contextmanager
def started(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process, for as long as this lasts."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _print(name: str, values: list[float]) -> None:
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    print(f"| {name} | {len(values)} | {p50:.3g} | {p95:.3g} | {p99:.3g} | {max(values):.3g} |", flush=True)


def _starts(marks: list[tuple[float, str, str]]) -> list[float]:
    return [when for when, kind, data in marks if kind == "status" and '"running"' in data]


def _time_of(marks: list[tuple[float, str, str]], status: str) -> float:
    return next(when for when, kind, data in marks if kind == "status" and f'"{status}"' in data)


def _steps(
    marks: list[tuple[float, str, str]], *, after_s: float = 0.0, until_s: float = float("inf")
) -> list[int]:
    told = (data for when, kind, data in marks if kind == "progress" and after_s <= when <= until_s)
    return [json.loads(data)["step"] for data in told]


if __name__ == "__main__":
    main()
