"""The service as real processes, for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer
from tests.support.service import Service


@pytest.fixture
def service(redis_server: RedisServer, tmp_path: Path) -> Iterator[Service]:
    """The API and the janitor; a test starts the workers it needs. CLIP loads meanwhile."""
    started = Service(redis_server, tmp_path)
    started.start("app")
    started.start("workers", "janitor")
    started.wait_until(started.alive)
    yield started
    started.stop()
