"""`clipcanvas serve` runs the whole service, refuses what cannot work, and leaves nothing behind."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from clipcanvas import Client, ClipcanvasError
from clipcanvas.launcher import redis_server as embedded
from clipcanvas.launcher import service as launcher
from tests.integration.clipcanvas.launcher.conftest import is_alive
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.timeout(120)


class Served:
    """One `clipcanvas serve` without workers, as a process."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        data.parent.mkdir(parents=True, exist_ok=True)
        self.output = data.parent / f"{data.name}.out"
        argv = [sys.executable, "-m", "clipcanvas", "serve", "--data", str(data), "--workers", "0"]
        with self.output.open("w") as output:
            self.process = subprocess.Popen([*argv, *options], stdout=output, stderr=output)

    @property
    def text(self) -> str:
        return self.output.read_text()

    def url(self) -> str:
        """Where it answers, once it says so."""
        wait_until(lambda: '"url": "' in self.text or self.process.poll() is not None, lambda: self.text)
        records = [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]
        return next(str(record["url"]) for record in records if "url" in record)

    def child_pids(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(60)


def wait_until(promise: Callable[[], bool], told: Callable[[], str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not promise():
        assert time.monotonic() < deadline, told()
        time.sleep(0.05)


@contextlib.contextmanager
def served(data: Path, *options: str) -> Iterator[Served]:
    service = Served(data, *options)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()


def answers(url: str) -> bool:
    with contextlib.suppress(ClipcanvasError), Client(url, retries=0) as client:
        return client.queue().queued >= 0
    return False


def test_it_runs_takes_jobs_mends_itself_and_keeps_what_it_took(tmp_path: Path) -> None:
    data = tmp_path / "my data"
    with served(data, "--port", "0") as service:
        url = service.url()
        wait_until(lambda: answers(url), lambda: service.text)
        with Client(url) as client:
            job = client.create_job("a fox", generator="gradient")

        second = subprocess.run(
            [sys.executable, "-m", "clipcanvas", "serve", "--data", str(data), "--port", "0"],
            capture_output=True,
            text=True,
        )
        assert second.returncode == 5
        assert f"{data} is in use by another Clipcanvas (process {service.process.pid})" in second.stderr

        port = url.rpartition(":")[2]
        third = subprocess.run(
            [sys.executable, "-m", "clipcanvas", "serve", "--data", str(tmp_path / "other"), "--port", port],
            capture_output=True,
            text=True,
        )
        assert third.returncode == 5
        assert f"port {port} of 127.0.0.1 is in use; choose another with --port" in third.stderr

        with redis.Redis(unix_socket_path=str(data / "redis" / "redis.sock")) as connection:
            killed = int(connection.info()["process_id"])
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: "redis ended, starting it again" in service.text, lambda: service.text)
        wait_until(lambda: answers(url), lambda: service.text)

        children = service.child_pids()
        assert len(children) == 4  # Redis, the API, the janitor, the webhook sender
        assert service.end() == 0
        assert not any(is_alive(pid) for pid in children)
        order = [line for line in service.text.splitlines() if '"stopp' in line]
        assert [json.loads(line)["event"] for line in order] == ["stopping", "stopped"]
    assert {"api.log", "janitor.log", "launcher.log", "redis.log", "webhooks.log"} <= {
        path.name for path in (data / "logs").iterdir()
    }

    with served(data, "--port", "0") as service:
        url = service.url()
        wait_until(lambda: answers(url), lambda: service.text)
        with Client(url) as client:
            assert client.job(job.id).status == "queued"
        service.end()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_killed_launcher_leaves_no_process_and_the_data_can_be_used_at_once(tmp_path: Path) -> None:
    with served(tmp_path / "data", "--port", "0") as service:
        wait_until(lambda: len(service.child_pids()) == 4, lambda: service.text)
        children = service.child_pids()
        service.process.kill()
        service.process.wait()
        wait_until(lambda: not any(is_alive(pid) for pid in children), lambda: service.text, seconds=10)
    with served(tmp_path / "data", "--port", "0") as again:
        wait_until(lambda: len(again.child_pids()) == 4, lambda: again.text)
        assert again.end() == 0


def test_a_long_path_works_though_a_socket_s_may_not(tmp_path: Path) -> None:
    data = tmp_path / ("d" * 90)
    with served(data, "--port", "0") as service:
        url = service.url()
        wait_until(lambda: answers(url), lambda: service.text)
        assert service.end() == 0


def test_a_given_redis_is_used_and_left_running(tmp_path: Path, redis_server: RedisServer) -> None:
    with served(tmp_path / "data", "--port", "0", "--redis", redis_server.url) as service:
        url = service.url()
        wait_until(lambda: answers(url), lambda: service.text)
        assert len(service.child_pids()) == 3  # the API, the janitor, the webhook sender
        with Client(url) as client:
            client.create_job("a fox", generator="gradient")
        assert service.end() == 0
    with redis.Redis.from_url(redis_server.url) as connection:
        assert connection.keys("clipcanvas:job:*")


def test_a_given_redis_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    options = ["--data", str(tmp_path), "--port", "0", "--redis", f"unix://{tmp_path}/nothing.sock"]
    ended = subprocess.run(
        [sys.executable, "-m", "clipcanvas", "serve", *options], capture_output=True, text=True
    )
    assert ended.returncode == 5
    assert "the given Redis does not answer" in ended.stderr


def test_a_data_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plan = launcher.ServicePlan(data=tmp_path / "file" / "data")
    with pytest.raises(launcher.StartRefused, match="cannot keep data in"):
        asyncio.run(launcher.serve(plan))


def test_a_free_port_is_free_and_a_taken_one_is_refused() -> None:
    port = launcher.free_port("127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(launcher.StartRefused, match="in use"):
        launcher.free_port("127.0.0.1", port)


def test_a_host_that_is_not_this_machine_is_refused() -> None:
    with pytest.raises(launcher.StartRefused, match=r"cannot listen on port 0 of 192\.0\.2\.1"):
        launcher.free_port("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("localhost", "http://localhost:80"),
    ],
)
def test_a_service_on_every_address_is_reached_on_this_machine(host: str, expected: str) -> None:
    assert launcher.base_url(host, 80) == expected


def test_the_embedded_redis_forgets_nothing_and_listens_to_nobody_else(tmp_path: Path) -> None:
    path = embedded.socket_path(tmp_path)
    server = subprocess.Popen(embedded.command(embedded.binary(), tmp_path, path), stdout=subprocess.DEVNULL)
    try:
        wait_until(path.exists, lambda: "no socket")
        with redis.Redis(unix_socket_path=str(path)) as connection:
            settings = connection.config_get("*")
            assert (settings["appendonly"], settings["appendfsync"]) == ("yes", "everysec")
            assert (settings["maxmemory-policy"], settings["port"], settings["save"]) == (
                "noeviction",
                "0",
                "",
            )
            assert [module[b"name"] for module in connection.module_list()] == [b"vectorset"]  # Redis's own
        assert path.stat().st_mode & 0o077 == 0
    finally:
        server.terminate()
        assert server.wait(20) == 0
