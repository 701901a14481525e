"""`make demo`: start the whole service, classify a photo, draw an image and stop, all through HTTP."""

import argparse
import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from clipcanvas.cli.draw import follow
from clipcanvas.cli.terminal import console
from clipcanvas.client.client import Client
from clipcanvas.client.errors import ClipcanvasError
from clipcanvas.launcher import service as launcher
from clipcanvas.launcher.child_process import die_with_parent

PHOTO = Path("examples/cat.jpg")
LABELS = ("cat", "dog", "bird", "car", "cup of coffee", "rocket", "pizza", "tree", "temple", "guitar")
EXPECTED = "cat"
PROMPT = "a red heart"
START_S = 180.0
STOP_S = 90.0


def main() -> int:
    """Run the demo; return 0 if the photo was classified correctly and the image drawn."""
    parser = argparse.ArgumentParser(prog="python -m clipcanvas.demo", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/demo"), help="folder of all that is kept")
    parser.add_argument("--seed", type=int, default=1, help="of the image")
    arguments = parser.parse_args()
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)  # in step with what goes to standard error
    started = time.monotonic()
    try:
        with service(arguments.data) as client:
            print(f"\nWhat is in {PHOTO}?")
            best = _classify(client)
            print(f"\nDrawing {PROMPT!r}:")
            image = _draw(client, arguments.data, arguments.seed)
    except (ClipcanvasError, DemoFailed) as error:
        console.note(f"the demo failed: {error}; the logs are in {arguments.data / 'logs'}")
        return 1
    except KeyboardInterrupt:
        console.note("interrupted")
        return console.INTERRUPTED
    print(f"\nThe whole demo took {time.monotonic() - started:.0f} s. Open the image: {image}")
    print("Next: `make serve`, and beside it `.venv/bin/clipcanvas draw 'a green tree' -o tree.png`.")
    if best != EXPECTED:
        console.note(f"the demo failed: {PHOTO} was taken for {best!r}, not {EXPECTED!r}")
        return 1
    return 0


class DemoFailed(Exception):
    """The service did not start or stop as it should."""


@contextlib.contextmanager
def service(data: Path) -> Iterator[Client]:
    """The whole service on a free port, with all that it keeps in a folder; it stops at the end."""
    data.mkdir(parents=True, exist_ok=True)
    port = launcher.free_port("127.0.0.1", 0)
    url = launcher.base_url("127.0.0.1", port)
    argv = [sys.executable, "-m", "clipcanvas", "serve", "--port", str(port), "--data", str(data)]
    output = data / "serve.log"
    # no variable of the environment may lead the demo to the Redis or the images of another service
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLIPCANVAS_")}
    print(f"Starting Redis, the API, a worker, an indexer, the janitor and the webhook sender on {url}")
    with output.open("w") as log:
        service = subprocess.Popen(
            argv,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C stops the demo, which stops the service
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
    try:
        _wait_until_ready(url, service, output)
        with Client(url) as client:
            yield client
    finally:
        stopping = time.monotonic()
        service.send_signal(signal.SIGTERM)
        try:
            code = service.wait(STOP_S)
        except subprocess.TimeoutExpired:
            service.kill()
            raise DemoFailed(f"the service did not stop within {STOP_S:.0f} s") from None
    if code:
        raise DemoFailed(f"the service ended with exit code {code}")
    print(f"\nStopped in {time.monotonic() - stopping:.1f} s.")


def _wait_until_ready(url: str, service: "subprocess.Popen[bytes]", output: Path) -> None:
    started, shown = time.monotonic(), ""
    while True:
        state = "the API starts"
        with contextlib.suppress(ClipcanvasError), Client(url, retries=0) as client:
            readiness = client.ready()
            if readiness.ready:
                print(f"Ready after {time.monotonic() - started:.1f} s.")
                return
            state = ", ".join(f"{name}: {part}" for name, part in readiness.parts.items())
        if state != shown:
            print(f"  {time.monotonic() - started:4.1f} s  {state}")
            shown = state
        if service.poll() is not None:
            raise DemoFailed(f"the service ended while it started: {output.read_text()[-2000:]}")
        if time.monotonic() - started > START_S:
            raise DemoFailed(f"the service was not ready within {START_S:.0f} s ({state})")
        time.sleep(0.2)


def _classify(client: Client) -> str:
    answer = client.classify(PHOTO, LABELS)
    console.print_table(
        ["label", "probability", "similarity"],
        [(score.label, score.probability, score.similarity) for score in answer.data[0].labels],
    )
    return answer.best


def _draw(client: Client, data: Path, seed: int) -> Path:
    started = time.monotonic()
    image = data / "heart.png"
    job, _ = follow(client.create_job(PROMPT, seed=seed), image)
    print(f"drawn in {time.monotonic() - started:.1f} s")
    print(f"  image    {image}")
    print(f"  job      {job.id}, kept in {data}")
    return image


if __name__ == "__main__":
    sys.exit(main())
