"""How many files of ours one request runs through: what somebody has to read to follow it."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from app.main import create_app
from app.settings import ApiSettings
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).parents[3]
OURS = ("app", "jobs", "storage", "models")
CAT = ROOT / "examples" / "cat.jpg"


class Files:
    """The files whose functions are called, on any thread, while `recording` is set."""

    def __init__(self) -> None:
        self.recording = False
        self._seen: set[str] = set()

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if self.recording and event == "call":
            self._seen.add(frame.f_code.co_filename)

    def ours(self) -> list[str]:
        paths = (Path(name) for name in self._seen if name.startswith(str(ROOT)))
        names = (str(path.relative_to(ROOT)) for path in paths)
        return sorted(name for name in names if name.partition("/")[0] in OURS)


@contextmanager
def profiled() -> Iterator[Files]:
    """Profiles this thread, and every thread that is started meanwhile."""
    files = Files()
    install: Callable[[Any], None]
    for install in (threading.setprofile, sys.setprofile):
        install(files.profile)
    try:
        yield files
    finally:
        for install in (threading.setprofile, sys.setprofile):
            install(None)


async def test_a_classification_runs_through_18_files_at_most(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    settings = ApiSettings(redis_url=redis_server.url, store=tmp_path.as_uri(), image_cache_rows=0)
    app = create_app(settings)
    body = [("image", ("cat.jpg", CAT.read_bytes())), ("labels", (None, "cat")), ("labels", (None, "dog"))]
    with profiled() as files:
        async with app.router.lifespan_context(app) as state:
            transport = httpx.ASGITransport(_with_state(app, state))
            async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
                while (await client.get("/readyz")).status_code != 200:
                    pass
                (await client.post("/v1/classify", files=body)).raise_for_status()
                files.recording = True
                answer = await client.post("/v1/classify", files=body)
                files.recording = False
    assert answer.json()["data"][0]["labels"][0]["label"] == "cat"
    sys.stdout.write("\n".join(files.ours()))
    assert len(files.ours()) <= 18


def _with_state(app: Any, state: Any) -> Any:
    async def run(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return run
