"""A child process is started again when it ends, stopped when it should, and never outlives its launcher."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from clipcanvas.launcher import child_process
from clipcanvas.launcher.child_process import Child, GaveUp
from clipcanvas.launcher.log_files import Logbook
from tests.integration.clipcanvas.launcher.conftest import is_alive

MakeChild = Callable[..., Child]

SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "_FIRST_PAUSE_S", 0.01)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[MakeChild]:
    """Make a child process of some code; its lines are in `sleeper.log`."""
    logbook = Logbook(tmp_path, hidden=frozenset({"sleeper"}))

    def make(code: str, stop_s: float = 5) -> Child:
        argv = [sys.executable, "-c", code]
        return Child("sleeper", argv, environment=dict(os.environ), logbook=logbook, stop_s=stop_s)

    yield make
    logbook.close()


async def until(promise: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not promise():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def kept_alive(process: Child) -> AsyncIterator[None]:
    task = asyncio.create_task(process.keep_alive())
    try:
        yield
    finally:
        await process.stop(asyncio.Event())
        await asyncio.gather(task, return_exceptions=True)


def lines(folder: Path) -> list[str]:
    path = folder / "sleeper.log"
    return path.read_text().splitlines() if path.exists() else []


async def test_a_process_that_dies_is_started_again(child: MakeChild, tmp_path: Path) -> None:
    process = child(SLEEPER)
    async with kept_alive(process):
        await until(lambda: len(lines(tmp_path)) == 1)
        first = process.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(lines(tmp_path)) == 2)
        assert process.pid not in (None, first)
    assert process.pid is None


async def test_a_process_that_keeps_dying_is_given_up_by_name(child: MakeChild, tmp_path: Path) -> None:
    process = child("print('no weights'); raise SystemExit(4)")
    with pytest.raises(GaveUp, match="sleeper ended 5 times soon after its start, last with exit code 4"):
        await process.keep_alive()
    assert lines(tmp_path) == ["no weights"] * child_process.MAX_QUICK_DEATHS


async def test_a_process_that_lived_long_starts_with_a_clean_slate(
    child: MakeChild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "STEADY_S", 0)
    process = child("print('bye')")
    async with kept_alive(process):
        await until(lambda: len(lines(tmp_path)) > child_process.MAX_QUICK_DEATHS)


async def test_stopping_asks_first(child: MakeChild, tmp_path: Path) -> None:
    process = child(
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('drained')))\n"
        "print('ready', flush=True); time.sleep(60)",
    )
    async with kept_alive(process):
        await until(lambda: lines(tmp_path) == ["ready"])
        await process.stop(asyncio.Event())
    assert lines(tmp_path) == ["ready", "drained"]


async def test_a_process_that_does_not_listen_is_killed_in_time(child: MakeChild, tmp_path: Path) -> None:
    process = child(STUBBORN, stop_s=0.2)
    async with kept_alive(process):
        await until(lambda: len(lines(tmp_path)) == 1)
        started = time.monotonic()
        await process.stop(asyncio.Event())
        assert 0.2 <= time.monotonic() - started < 5
        assert not is_alive(int(lines(tmp_path)[0]))


async def test_hurrying_does_not_wait(child: MakeChild, tmp_path: Path) -> None:
    process = child(STUBBORN, stop_s=60)
    async with kept_alive(process):
        await until(lambda: len(lines(tmp_path)) == 1)
        hurry = asyncio.Event()
        hurry.set()
        await asyncio.wait_for(process.stop(hurry), 5)


async def test_a_very_long_line_is_kept_whole(child: MakeChild, tmp_path: Path) -> None:
    process = child("print('x' * 300_000); import time; time.sleep(60)")
    async with kept_alive(process):
        await until(lambda: [len(line) for line in lines(tmp_path)] == [300_000])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
async def test_a_killed_launcher_takes_its_children_along(tmp_path: Path) -> None:
    launcher = f"""
import asyncio, os, sys
from pathlib import Path
from clipcanvas.launcher.child_process import Child
from clipcanvas.launcher.log_files import Logbook
logbook = Logbook(Path({str(tmp_path)!r}))
argv = [sys.executable, "-c", {STUBBORN!r}]
child = Child("sleeper", argv, environment=dict(os.environ), logbook=logbook, stop_s=5)
asyncio.run(child.keep_alive())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", launcher, stderr=subprocess.DEVNULL)
    await until(lambda: len(lines(tmp_path)) == 1)
    pid = int(lines(tmp_path)[0])
    assert is_alive(pid)
    parent.kill()
    await parent.wait()
    await until(lambda: not is_alive(pid))


def test_lines_of_a_hidden_process_are_shown_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logbook = Logbook(tmp_path)
    logbook.write("redis", "Ready to accept connections")
    logbook.write("api", '{"event": "request"}')
    assert capsys.readouterr().err == '{"event": "request"}\n'
    logbook.reveal("redis")
    assert capsys.readouterr().err == "Ready to accept connections\n"
    logbook.close()
