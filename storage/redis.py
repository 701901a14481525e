"""Connections to Redis: a patient one for workers, an impatient one for the API, RQ's, one for vectors."""

import redis
import redis.asyncio
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry


def connect(url: str, *, patience_s: float) -> redis.Redis:
    """A client whose calls try again for about `patience_s` seconds when the server cannot be reached."""
    return redis.Redis.from_url(url, decode_responses=True, **_options(patience_s))


def connect_rq(url: str, *, patience_s: float) -> redis.Redis:
    """The same for RQ, which wants bytes and a client that nobody shares."""
    return redis.Redis.from_url(url, **_options(patience_s))


def connect_async(url: str) -> "redis.asyncio.Redis":
    """For readers of event streams; each holds a connection for as long as it reads."""
    return redis.asyncio.Redis.from_url(
        url, decode_responses=True, socket_connect_timeout=1, max_connections=1000
    )


def connect_vectors(url: str, *, timeout_s: float) -> redis.Redis:
    """For vector sets: bytes, and answers as the server sends them; redis-py's own differ by version."""
    options = {**_options(1.0), "socket_timeout": timeout_s}
    client = redis.Redis.from_url(url, protocol=2, **options)
    for command in ("VADD", "VSIM", "VEMB", "VCARD", "VGETATTR", "VSETATTR", "VREM"):
        client.set_response_callback(command, lambda answer, **_: answer)
    return client


def _options(patience_s: float) -> dict[str, object]:
    cap_s = 1.0
    return {
        "retry": Retry(ExponentialWithJitterBackoff(base=0.05, cap=cap_s), _tries(patience_s, cap_s)),
        "socket_connect_timeout": 1,
        "socket_timeout": max(2.0, min(patience_s, 15)),
        "health_check_interval": 15,
    }


def _tries(patience_s: float, cap_s: float) -> int:
    # full jitter waits half the cap on average once it is reached
    return max(1, round(patience_s / (cap_s / 2)))
