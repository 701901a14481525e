"""The programs of the docs as they are printed there, against the service as real processes."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.redis_server import RedisServer
from tests.support.service import Service

ROOT = Path(__file__).parents[2]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PRINTED_PORTS = (8000, 8001, 8002, 9000, 9001)  # that of the service first
Run = Callable[..., str]


def blocks(page: str, kind: str) -> list[str]:
    """The blocks of that kind on a page of the docs."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def put_photo(path: Path) -> None:
    """A photo of a cat, there."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((ROOT / "examples" / "cat.jpg").read_bytes())


@pytest.fixture(scope="session")
def ports() -> dict[int, int]:
    """A free port for each that is printed, but for the service's own."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in PRINTED_PORTS[1:]]
        free = [listener.getsockname()[1] for listener in sockets]
    return dict(zip(PRINTED_PORTS[1:], free, strict=True))


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, ports: dict[int, int]) -> Iterator[Service]:
    """The API with its CLIPs, a worker of each kind, and a sender of webhooks that may call this machine."""
    with tempfile.TemporaryDirectory(prefix="clipcanvas-") as folder:
        redis = RedisServer(Path(folder))
        redis.start()
        photos = tmp_path_factory.mktemp("photos")
        put_photo(photos / "2024" / "cat.jpg")
        service = Service(
            redis,
            tmp_path_factory.mktemp("service"),
            CLIPCANVAS_WEBHOOK_SECRETS=json.dumps([SECRET]),
            CLIPCANVAS_WEBHOOK_PORTS=json.dumps([ports[9000], ports[9001]]),
            CLIPCANVAS_WEBHOOK_ALLOW_HTTP="1",
            CLIPCANVAS_WEBHOOK_ALLOW_PRIVATE="1",
            CLIPCANVAS_CLIP_MODELS='["demo-photo", "demo-icons"]',
            CLIPCANVAS_CLIP_PRELOAD='["demo-photo", "demo-icons"]',
            CLIPCANVAS_COMPAT='["immich"]',
            CLIPCANVAS_INDEX_ROOTS=json.dumps({"photos": str(photos)}),
        )
        service.start("app")
        service.start("workers", "webhooks")
        service.start("workers", "indexer")
        service.worker('["gradient", "vqgan_clip", "pixels"]')
        service.wait_until(lambda: httpx.get(f"{service.url}/readyz").status_code == 200, 120)
        yield service
        service.stop()
        redis.stop()


class Shell:
    """A folder in which programs of the docs run; they find the project's pictures and leave theirs."""

    def __init__(self, folder: Path, service: Service, ports: dict[int, int]) -> None:
        self.folder, self.service = folder, service
        self._ports = {**ports, PRINTED_PORTS[0]: service.port}
        for name in ("examples", "docs"):
            (folder / name).symlink_to(ROOT / name)
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CLIPCANVAS_URL": service.url,
            "WEBHOOK_SECRET": SECRET,
        }

    def as_here(self, text: str) -> str:
        """A text of the docs with the ports of this test."""
        pattern = r"\b(" + "|".join(map(str, PRINTED_PORTS)) + r")\b"
        return re.sub(pattern, lambda match: str(self._ports[int(match[1])]), text)

    def url(self, port: int) -> str:
        """Where a program listens that the docs have on that port."""
        return f"http://127.0.0.1:{self._ports[port]}"

    def keep(self, page: str) -> None:
        """Write each program of a page into the file that its first line names."""
        for program in (*blocks(page, "python"), *blocks(page, "js")):
            name = re.match(r"(?:#|//) (\S+)\n", program)
            assert name, f"a program without a name: {program}"
            (self.folder / name[1]).write_text(self.as_here(program))

    def photos(self, *names: str) -> None:
        """Photos in the folder."""
        for name in names:
            put_photo(self.folder / name)

    def run(self, command: str, program: str = "") -> str:
        """Run a command to its end; what it printed."""
        ended = subprocess.run(
            ["bash", "-euc", self.as_here(command)],
            input=self.as_here(program),
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        told = f"{command}\n{ended.stdout}\n{ended.stderr}"
        assert ended.returncode == 0, f"{told}\n{self.service.logs()}"
        return ended.stdout

    def start(self, command: str, port: int) -> tuple["subprocess.Popen[str]", Path]:
        """Start a program that listens; its process, and the file that it prints into."""
        output = self.folder / f"{port}.log"
        with output.open("w") as log:
            process = subprocess.Popen(
                ["bash", "-euc", f"exec {self.as_here(command)}"],
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                text=True,
            )
        self.service.processes.append(process)  # stopped with it
        self.service.wait_until(lambda: httpx.get(self.url(port)).status_code > 0)
        return process, output


@pytest.fixture
def shell(service: Service, ports: dict[int, int], tmp_path: Path) -> Shell:
    return Shell(tmp_path, service, ports)
