"""Fixtures of all tests: a private Redis 8 server, started once and emptied for each test that asks."""

from collections.abc import Iterator

import pytest
import redis

from tests.support.redis_server import RedisServer, private_redis


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisServer]:
    with private_redis() as server:
        yield server


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """The server, running and empty."""
    if redis_process.process is None:
        redis_process.start()
    with redis.Redis.from_url(redis_process.url) as client:
        client.flushall()
    return redis_process
