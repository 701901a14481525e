"""`python -m app` serves the API; `python -m app key NAME` makes an API key."""

import argparse
import asyncio
import gc
import os
import sys

# numpy reads it as it is imported: threads of its linear algebra spin for 20 ms after each product
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from pydantic import ValidationError

from app.dependencies import new_key
from app.http.server import Server, configure
from app.main import create_app
from app.settings import ApiSettings
from jobs import logs
from models.runtime.machine import keep_freed_memory


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
    if settings.clip_compile_batches:  # torch reads it as it is imported
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.compile_cache))
    keep_freed_memory(one_heap=True)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads do not spin while they wait
    # what a request makes goes by itself: cycles, which are few, are looked for a tenth as often
    gc.set_threshold(7_000, 10, 10)
    stopping = asyncio.Event()
    app = create_app(settings, stopping=stopping, clips_changed=gc.freeze)
    Server(configure(app, settings), stopping).run()


if __name__ == "__main__":
    main()
