"""The service's processes, which can be killed, frozen and stopped; a supervisor starts them again."""

import heapq
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import redis

from clipcanvas.launcher import redis_server
from clipcanvas.launcher.child_process import die_with_parent

RESTART_S = 0.3
POLITE = {0, -signal.SIGTERM}  # how a process may end that was asked to; -SIGTERM: it was still starting


@dataclass
class Diary:
    """What happened, in order; threads write into it."""

    began_s: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, text: str, count: str | None = None) -> None:
        """Note something, and perhaps count it under a name."""
        with self.lock:
            self.lines.append(f"{time.monotonic() - self.began_s:7.2f} s  {text}")
            if count:
                self.counts[count] += 1

    def blame(self, text: str) -> None:
        """Note that a promise was broken."""
        self.say(f"PROBLEM {text}")
        with self.lock:
            self.problems.append(text)


class Part:
    """One process of the service, over all of its lives."""

    def __init__(self, name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name, self.argv, self.environment, self.log = name, argv, environment, log
        self.process: subprocess.Popen[bytes] | None = None
        self.is_frozen = False
        self.asked: set[signal.Signals] = set()  # what this life was sent
        self.restart_s = 0.0  # not before

    def start(self) -> None:
        """Begin a life."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
        self.is_frozen = False
        self.asked = set()

    def send(self, number: signal.Signals) -> bool:
        """Whether there was a process to get it."""
        if self.process is None or self.process.poll() is not None:
            return False
        self.asked.add(number)
        self.process.send_signal(number)
        self.is_frozen = number == signal.SIGSTOP or (self.is_frozen and number != signal.SIGCONT)
        return True


class Stage:
    """The whole service on a socket, a loopback port and a folder; a thread keeps its processes alive."""

    def __init__(self, folder: Path, settings: Mapping[str, str], diary: Diary, *, workers: int = 2) -> None:
        self.folder, self.diary = folder, diary
        (folder / "redis").mkdir(parents=True)
        (folder / "logs").mkdir()
        self.store = folder / "store"
        self.socket = redis_server.socket_path(folder / "redis")
        self.redis_url = redis_server.url(self.socket)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "CLIPCANVAS_REDIS_URL": self.redis_url,
            "CLIPCANVAS_STORE": self.store.as_uri(),
            "CLIPCANVAS_PORT": str(self.port),
            **settings,
        }
        server = redis_server.command(redis_server.binary(), folder / "redis", self.socket)
        commands = {"redis": server, "janitor": _python("workers", "janitor"), "api": _python("app")}
        commands |= {f"worker-{number}": _python("workers") for number in range(1, workers + 1)}
        self.parts = {
            name: Part(name, command, environment, folder / "logs" / f"{name}.log")
            for name, command in commands.items()
        }
        self._thaws: list[tuple[float, int, Part, subprocess.Popen[bytes] | None]] = []
        self._timers: list[threading.Timer] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    def start(self) -> None:
        """Start everything, and keep it alive from now on."""
        for part in self.parts.values():
            part.start()
        self._thread.start()

    def kill(self, name: str, *, down_s: float = RESTART_S) -> None:
        """SIGKILL; started again after `down_s`."""
        self._end(name, signal.SIGKILL, down_s)

    def terminate(self, name: str, *, down_s: float = RESTART_S) -> None:
        """SIGTERM; started again `down_s` after this, or when it has ended."""
        self._end(name, signal.SIGTERM, down_s)

    def freeze(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        with self._lock:
            part = self.parts[name]
            if not part.is_frozen and part.send(signal.SIGSTOP):
                self.diary.say(f"{name} frozen for {seconds:.1f} s", f"{_role(name)} SIGSTOP")
                due_s = time.monotonic() + seconds
                heapq.heappush(self._thaws, (due_s, next(self._numbers), part, part.process))

    def refuse_writes(self, setting: str, value: str, seconds: float) -> None:
        """Have Redis refuse writes for a while, by a setting whose usual value is 0."""
        if self._configure(setting, value):
            self.diary.say(f"redis refuses writes by {setting} for {seconds:.1f} s", f"redis {setting}")
            timer = threading.Timer(seconds, self._configure, (setting, "0"))
            timer.daemon = True
            timer.start()
            self._timers.append(timer)

    def thaw_all(self) -> None:
        """Nothing is frozen, and nothing is refused any more."""
        for timer in self._timers:
            timer.join()
        with self._lock:
            self._thaws.clear()
            for part in self.parts.values():
                if part.is_frozen:
                    part.send(signal.SIGCONT)

    def stop(self) -> None:
        """End every process that was started, by its id."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(10)
        for part in self.parts.values():
            if part.process and part.process.poll() is None:
                part.process.kill()
                part.process.wait(10)
        if self.socket.parent != self.folder / "redis":
            self.socket.unlink(missing_ok=True)
            self.socket.parent.rmdir()

    def log_lines(self, word: str, limit: int = 40) -> list[str]:
        """The last lines of all logs with this word in them."""
        found = []
        for part in self.parts.values():
            if part.log.exists():
                lines = part.log.read_text(errors="replace").splitlines()
                found += [f"{part.name}: {line[:400]}" for line in lines if word in line]
        return found[-limit:]

    def _configure(self, setting: str, value: str) -> bool:
        """Whether it could be told. A Redis that starts again has the usual value."""
        try:
            with redis.Redis.from_url(self.redis_url, socket_timeout=20) as connection:
                return bool(connection.config_set(setting, value))
        except redis.RedisError:
            return False

    def _end(self, name: str, number: signal.Signals, down_s: float) -> None:
        with self._lock:
            part = self.parts[name]
            if part.send(number):
                part.restart_s = time.monotonic() + down_s
                self.diary.say(f"{name} gets {number.name}", f"{_role(name)} {number.name}")

    def _supervise(self) -> None:
        while not self._stopping.wait(0.05):
            with self._lock:
                now_s = time.monotonic()
                while self._thaws and self._thaws[0][0] <= now_s:
                    _, _, part, process = heapq.heappop(self._thaws)
                    if part.process is process and part.send(signal.SIGCONT):
                        self.diary.say(f"{part.name} goes on")
                for part in self.parts.values():
                    self._look_after(part, now_s)

    def _look_after(self, part: Part, now_s: float) -> None:
        code = part.process.poll() if part.process else None
        if code is not None:
            self._judge(part, code)
            part.process = None
        if part.process is None and now_s >= part.restart_s:
            part.start()
            self.diary.say(f"{part.name} starts again", f"{_role(part.name)} restarts")

    def _judge(self, part: Part, code: int) -> None:
        if signal.SIGKILL in part.asked:
            return
        if signal.SIGTERM in part.asked:
            if code not in POLITE:
                self.diary.blame(f"{part.name} ended with {code} after SIGTERM, see {part.log}")
            return
        self.diary.blame(f"{part.name} ended by itself with {code}, see {part.log}")
        part.restart_s = time.monotonic() + RESTART_S


def _python(*command: str) -> list[str]:
    return [sys.executable, "-m", *command]


def _role(name: str) -> str:
    return name.partition("-")[0]
