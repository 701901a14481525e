"""The whole service on one machine, as child processes: Redis, API, workers, and what helps them."""

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clipcanvas.client.async_client import AsyncClient
from clipcanvas.client.errors import ClipcanvasError
from clipcanvas.launcher import redis_server
from clipcanvas.launcher.child_process import Child, GaveUp
from clipcanvas.launcher.log_files import Logbook

PROJECT = Path(__file__).resolve().parents[2]  # where `app` and `workers` are
LOCK_WAIT_S = 5.0  # a Redis whose launcher was killed needs a moment to end
REDIS_START_S = 120.0  # reading a large append-only file takes a while
STILL_WAITING_S = 15.0

# how long each may take to end by itself
API_STOP_S = 25.0  # a little more than the API gives its own requests
WORKER_STOP_S = 40.0  # a step, a checkpoint, and handing the job back
JANITOR_STOP_S = 10.0
WEBHOOKS_STOP_S = 20.0  # the time that a receiver has to answer
REDIS_STOP_S = 30.0  # writing the append-only file to the end


class StartRefused(Exception):
    """The service cannot start with this plan; the message gives the reason and a remedy."""


@dataclass(frozen=True)
class ServicePlan:
    """What to run.

    Args:
        port: 0 takes a free one.
        workers: processes that draw; beside them is one that indexes, unless there are none.
        data: folder of everything that is kept; one service at a time may use it.
        redis_url: a server to use; without, an embedded one is started.
        environment: of the child processes, beside what the plan itself decides.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    data: Path = Path("data")
    workers: int = 1
    redis_url: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


async def serve(plan: ServicePlan) -> None:
    """Run the service until SIGINT, SIGTERM or SIGHUP; a second one kills what has not ended by then.

    Raises:
        StartRefused: it cannot start here.
        GaveUp: one of its processes keeps ending.
    """
    data = plan.data.absolute()
    with _locked(data) as lock, contextlib.closing(Logbook(data / "logs")) as logbook:
        service = _Service(plan, data, free_port(plan.host, plan.port), lock, logbook)
        with _stop_signals(service.stop, service.hurry):
            try:
                await service.run()
            except GaveUp as error:
                logbook.reveal(error.name)
                raise
            finally:
                await service.close()


class _Service:
    def __init__(self, plan: ServicePlan, data: Path, port: int, lock: int, logbook: Logbook) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self._plan = plan
        self._data = data
        self._port = port
        self._lock = lock
        self._logbook = logbook
        self._stages: list[list[Child]] = []  # stopped last to first
        self._tasks: list[asyncio.Task[None]] = []
        self._socket_folder: Path | None = None

    async def run(self) -> None:
        redis_url = await self._redis()
        if self.stop.is_set():
            return
        environment = self._environment(redis_url)
        self._start(
            self._python("janitor", ["workers", "janitor"], environment, JANITOR_STOP_S),
            self._python("webhooks", ["workers", "webhooks"], environment, WEBHOOKS_STOP_S),
        )
        names = [f"worker-{number}" for number in range(1, self._plan.workers + 1)]
        self._start(*(self._python(name, ["workers"], environment, WORKER_STOP_S) for name in names))
        if self._plan.workers:
            self._start(self._python("indexer", ["workers", "indexer"], environment, WORKER_STOP_S))
        self._start(self._python("api", ["app"], environment, API_STOP_S))
        self._tasks.append(asyncio.create_task(self._announce()))
        await self._until_stopped()

    async def close(self) -> None:
        """End everything in order: what asks for work first, what keeps it last."""
        self._logbook.say("stopping")
        for stage in reversed(self._stages):
            await asyncio.gather(*(child.stop(self.hurry) for child in stage))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket_folder:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
        self._logbook.say("stopped")

    async def _redis(self) -> str:
        if self._plan.redis_url:
            reason = await redis_server.ping(self._plan.redis_url)
            if reason:
                raise StartRefused(f"the given Redis does not answer: {reason}")
            return self._plan.redis_url
        try:
            executable = redis_server.binary()
        except redis_server.RedisMissing as error:
            raise StartRefused(f"{error}; name a running Redis 8 with --redis URL") from error
        folder = self._data / "redis"
        folder.mkdir(parents=True, exist_ok=True)
        socket_path = redis_server.socket_path(folder)
        if socket_path.parent != folder:
            self._socket_folder = socket_path.parent
        self._start(
            Child(
                "redis",
                redis_server.command(executable, folder, socket_path),
                environment=self._plan.environment,
                logbook=self._logbook,
                stop_s=REDIS_STOP_S,
                death_signal=signal.SIGTERM,  # so that it still writes out its append-only file
                keep_fds=(self._lock,),  # the folder stays locked until this server has ended, too
            )
        )
        url = redis_server.url(socket_path)
        end = time.monotonic() + REDIS_START_S
        while (reason := await redis_server.ping(url)) and not self.stop.is_set():
            if self._tasks[0].done():
                self._tasks[0].result()
            if time.monotonic() > end:
                raise StartRefused(f"the embedded Redis does not answer: {reason}; see {self._data / 'logs'}")
            await asyncio.sleep(0.05)
        return url

    def _environment(self, redis_url: str) -> dict[str, str]:
        given = self._plan.environment
        path = os.pathsep.join(part for part in (str(PROJECT), given.get("PYTHONPATH")) if part)
        return {
            "CLIPCANVAS_STORE": (self._data / "store").as_uri(),
            # threads of torch that wait must not spin: the API and the workers share the cores
            # (a step of drawing on 2 busy cores: 1.4 s spinning, 0.6 s without)
            "OMP_WAIT_POLICY": "PASSIVE",
            **given,
            "CLIPCANVAS_REDIS_URL": redis_url,
            "CLIPCANVAS_HOST": self._plan.host,
            "CLIPCANVAS_PORT": str(self._port),
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
        }

    def _python(self, name: str, module: list[str], environment: Mapping[str, str], stop_s: float) -> Child:
        # -P: a folder `app` where the user happens to be is not ours
        argv = [sys.executable, "-P", "-m", *module]
        return Child(name, argv, environment=environment, logbook=self._logbook, stop_s=stop_s)

    def _start(self, *stage: Child) -> None:
        self._stages.append(list(stage))
        self._tasks += [asyncio.create_task(child.keep_alive()) for child in stage]

    async def _until_stopped(self) -> None:
        stopping = asyncio.create_task(self.stop.wait())
        running: set[asyncio.Task[object]] = {stopping, *self._tasks}
        try:
            while not stopping.done():
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
        finally:
            stopping.cancel()

    async def _announce(self) -> None:
        url = base_url(self._plan.host, self._port)
        waiting_for = ""
        logged = time.monotonic()
        async with AsyncClient(url, retries=0) as client:
            while True:
                with contextlib.suppress(ClipcanvasError):
                    readiness = await client.ready()
                    if readiness.ready:
                        self._logbook.say("ready", url=url, docs=f"{url}/docs", data=str(self._data))
                        return
                    parts = ", ".join(f"{name}: {state}" for name, state in readiness.parts.items())
                    if parts != waiting_for or time.monotonic() - logged > STILL_WAITING_S:
                        self._logbook.say("answering, but not ready yet", url=url, parts=parts)
                        waiting_for, logged = parts, time.monotonic()
                await asyncio.sleep(0.5)


def free_port(host: str, port: int) -> int:
    """The port itself if it is free, or any free one for 0.

    Raises:
        StartRefused: it is in use, not allowed, or the host is not this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.create_server(address[:2], family=family) as server:
            return int(server.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartRefused(f"port {port} of {host} is in use; choose another with --port") from error
        reason = error.strerror or str(error)
        raise StartRefused(f"cannot listen on port {port} of {host}: {reason}") from error


def base_url(host: str, port: int) -> str:
    """The URL at which this machine reaches a service that listens there."""
    reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


@contextlib.contextmanager
def _locked(data: Path) -> Iterator[int]:
    """Hold the folder for this process and the Redis that it starts; the descriptor of the lock."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartRefused(f"cannot keep data in {data}: {error.strerror}") from error
    try:
        end = time.monotonic() + LOCK_WAIT_S
        while not _try_lock(lock):
            owner = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
            if _is_alive(owner) or time.monotonic() > end:
                raise StartRefused(
                    f"{data} is in use by another Clipcanvas (process {owner}); "
                    "stop that one, or choose another folder with --data"
                )
            time.sleep(0.1)
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield lock
    finally:
        os.close(lock)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def _stop_signals(stop: asyncio.Event, hurry: asyncio.Event) -> Iterator[None]:
    def received() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, received)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
