"""A child process: kept alive while the service runs, stopped in time, and never left behind."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from clipcanvas.launcher.log_files import Logbook

STEADY_S = 60.0  # a process that lived for so long did not fail to start
MAX_QUICK_DEATHS = 5
_FIRST_PAUSE_S = 0.5
_PR_SET_PDEATHSIG = 1


class GaveUp(Exception):
    """A process ended so often, so soon, that starting it again is no use; `name` says which."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class Child:
    """One process of the service.

    Args:
        stop_s: how long it may take to end by itself when it is stopped.
        death_signal: what it gets if the launcher dies without stopping it (Linux only).
        keep_fds: descriptors that it inherits.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        logbook: Logbook,
        stop_s: float,
        death_signal: signal.Signals = signal.SIGKILL,
        keep_fds: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        self._argv = argv
        self._environment = environment
        self._logbook = logbook
        self._stop_s = stop_s
        self._death_signal = death_signal
        self._keep_fds = keep_fds
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def keep_alive(self) -> None:
        """Run it, and start it again whenever it ends, until it is stopped.

        Raises:
            GaveUp: it ended `MAX_QUICK_DEATHS` times in a row within `STEADY_S` of its start.
        """
        deaths = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._run()
            if self._stopping.is_set():
                return
            deaths = 1 if time.monotonic() - started > STEADY_S else deaths + 1
            if deaths >= MAX_QUICK_DEATHS:
                raise GaveUp(
                    self.name, f"{self.name} ended {deaths} times soon after its start, last {_ending(code)}"
                )
            pause_s = _FIRST_PAUSE_S * 2 ** (deaths - 1)
            self._logbook.say(
                f"{self.name} ended, starting it again", "warning", ending=_ending(code), in_s=pause_s
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def stop(self, hurry: asyncio.Event) -> None:
        """Ask it to end with SIGTERM; past its time, or once `hurry` is set, kill it."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        waits = [asyncio.ensure_future(process.wait()), asyncio.ensure_future(hurry.wait())]
        await asyncio.wait(waits, timeout=self._stop_s, return_when=asyncio.FIRST_COMPLETED)
        waits[1].cancel()
        if process.returncode is None:
            self._logbook.say(f"{self.name} did not end in time, killing it", "warning")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await waits[0]

    async def _run(self) -> int:
        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches the launcher alone, which stops all in order
            preexec_fn=die_with_parent(self._death_signal),
            pass_fds=self._keep_fds,
        )
        assert self._process.stdout is not None
        copying = asyncio.create_task(self._copy_lines(self._process.stdout))
        try:
            code = await self._process.wait()
            with contextlib.suppress(TimeoutError):  # something else may hold the pipe open
                await asyncio.wait_for(asyncio.shield(copying), 1)
        finally:
            copying.cancel()
        return code

    async def _copy_lines(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stream.read(2**16):  # readline would refuse a line longer than its buffer
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._logbook.write(self.name, line.decode(errors="replace"))
        if rest:
            self._logbook.write(self.name, rest.decode(errors="replace"))


def die_with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    """What a new process calls before its program, to get this signal when its parent dies."""
    if sys.platform != "linux":
        return None  # elsewhere a launcher that is killed with SIGKILL leaves its children running
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before prctl was called
            os._exit(1)

    return arrange


def _ending(code: int) -> str:
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
