"""Asks the API what nobody thought of: thousands of requests made out of its own OpenAPI document.

    python -m tests.fuzz --seed 7

No answer may be a 5xx, nor of a status, a type, a header or a shape that the document does not tell; the exit
code is 1 if one is. The API runs with all of its routes beside a real Redis, with a small CLIP and no worker.
504 is let pass: it is what a caller gets whose own `X-Request-Timeout` is over.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.live_api import TinyClip, live_api
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).parents[2]
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "504"]
"""


def main() -> int:
    """Read the command line, start the API, and let Schemathesis ask it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--examples", type=int, default=60, help="of each operation, at most")
    parser.add_argument("--seconds", type=int, default=600, help="after which it ends")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clipcanvas-") as name:
        folder = Path(name)
        config = folder / "schemathesis.toml"
        config.write_text(CONFIG)
        redis = RedisServer(folder)
        redis.start()
        try:
            with live_api(
                redis.url,
                (folder / "store").as_uri(),
                lambda name: TinyClip(),
                images_wait_s=0.05,
                max_stream_s=0.2,
                max_wait_s=1,
                max_queued=1_000_000,
                max_queued_per_key=1_000_000,
                compat=["weaviate", "immich"],
                webhook_secrets=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
            ) as api:
                api.ready()
                command = [
                    sys.executable,
                    "-m",
                    "schemathesis.cli",
                    "--config-file",
                    str(config),
                    "--no-color",
                ]
                options = {
                    "checks": ",".join(CHECKS),
                    "phases": "examples,coverage,fuzzing",
                    "max-examples": arguments.examples,
                    "max-time": arguments.seconds,
                    "seed": arguments.seed,
                    "generation-database": "none",
                    "request-timeout": 60,
                    "warnings": "off",
                }
                flags = [f"--{name}={value}" for name, value in options.items()]
                flags += ["--no-shrink", "--continue-on-failure", f"{api.url}/openapi.json"]
                environment = {
                    **os.environ,
                    "SCHEMATHESIS_HOOKS": "tests.fuzz.bodies",
                    "PYTHONPATH": str(ROOT),
                }
                return subprocess.run(
                    [*command, "run", *flags], cwd=folder, env=environment, check=False
                ).returncode
        finally:
            redis.stop()


if __name__ == "__main__":
    sys.exit(main())
