"""What the tests of the API share: an API on a real port beside a real Redis."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog

from jobs.queue import JobQueue
from storage.blobs import Store, open_store
from tests.support.live_api import LiveApi, StartApi, TinyClip, live_api
from tests.support.redis_server import RedisServer
from workers.settings import WorkerSettings


@pytest.fixture(scope="session", autouse=True)
def quiet_logs() -> None:
    """Tests that read logs start a process of their own."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@pytest.fixture
def tiny_clip() -> TinyClip:
    return TinyClip()


@pytest.fixture
def start_api(redis_server: RedisServer, tmp_path: Path, tiny_clip: TinyClip) -> Iterator[StartApi]:
    """Starts an API with settings of the test's choice."""
    with ExitStack() as stack:

        def start(**settings: Any) -> LiveApi:
            settings.setdefault("load_clip", lambda name: tiny_clip)
            store = (tmp_path / "store").as_uri()
            return stack.enter_context(live_api(redis_server.url, store, **settings))

        yield start


@pytest.fixture
def api(start_api: StartApi) -> LiveApi:
    """The API as the settings' defaults make it, but for its CLIP."""
    return start_api().ready()


@pytest.fixture(scope="session")
def demo_api(redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    """The API with its real default CLIP."""
    store = tmp_path_factory.mktemp("store").as_uri()
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    photos = tmp_path_factory.mktemp("photos")
    (photos / "cat.jpg").write_bytes((Path(__file__).parents[2] / "examples" / "cat.jpg").read_bytes())
    (photos / "broken.png").write_bytes(b"no image")
    settings = {
        "webhook_secrets": [secret],
        "index_roots": {"photos": photos},
        "compat": ["weaviate", "immich"],
    }
    with live_api(redis_process.url, store, None, **settings) as api:
        yield api.ready(120)


@pytest.fixture
def worker_settings(redis_server: RedisServer, tmp_path: Path) -> Callable[..., WorkerSettings]:
    """Makes settings of a worker beside this Redis, with short times; a test may choose others."""
    defaults: dict[str, Any] = {
        "redis_url": redis_server.url,
        "store": (tmp_path / "store").as_uri(),
        "heartbeat_s": 0.1,
        "progress_every_s": 0.05,
        "lease_s": 1,
        "redis_patience_s": 5,
    }
    return lambda **settings: WorkerSettings(**(defaults | settings))


@pytest.fixture
def settings(worker_settings: Callable[..., WorkerSettings]) -> WorkerSettings:
    return worker_settings()


@pytest.fixture
def queue(settings: WorkerSettings) -> Iterator[JobQueue]:
    opened = JobQueue(settings)
    yield opened
    opened.close()


@pytest.fixture
def store(settings: WorkerSettings) -> Store:
    return open_store(settings.store)
