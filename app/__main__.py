"""`python -m app` serves the API; `python -m app key NAME` makes an API key."""

import argparse
import asyncio
import sys
from types import FrameType

import uvicorn
from pydantic import ValidationError

from app.auth import new_key
from app.main import create_app
from app.settings import ApiSettings
from jobs import logs


class Server(uvicorn.Server):
    """Tells the application of the signal at once: the lifespan hears of it only after open streams ended."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called between two bytecodes of the main thread, which also runs the event loop."""
        self._stopping.set()
        super().handle_exit(sig, frame)


def main() -> None:
    """Read the command line and the environment."""
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("key", help="make an API key").add_argument("name")
    arguments = parser.parse_args()
    if arguments.command == "key":
        make_key(arguments.name)
    else:
        serve()


def make_key(name: str) -> None:
    """Print a new key, which is kept nowhere, and its entry for the settings."""
    try:
        key, entry = new_key(name)
    except ValidationError:
        sys.exit("a key's name is 1 to 64 letters, digits, - and _")
    sys.stdout.write(f"{key}\n\nThis is shown once. Allow it with\n\nCLIPCANVAS_API_KEYS='[{entry}]'\n")


def serve() -> None:
    """Run until SIGTERM or SIGINT."""
    try:
        settings = ApiSettings()
    except ValidationError as error:
        sys.exit(f"the settings are not valid:\n{error}")
    logs.configure(settings.log_level)
    stopping = asyncio.Event()
    config = uvicorn.Config(
        create_app(settings, stopping=stopping),
        host=settings.host,
        port=settings.port,
        http="h11",  # bounds the headers
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
        forwarded_allow_ips=settings.forwarded_allow_ips,
    )
    Server(config, stopping).run()


if __name__ == "__main__":
    main()
