"""How many CLIP requests does the API answer, and how fast, with batching and without? Prints a table.

    python -m benchmarks.serving --seconds 5

Real processes: a Redis server of its own and `python -m app` for each column, asked over HTTP by callers that
send their next request when they have the answer to the last. Callers and service share this machine's cores.
"""

import argparse
import asyncio
import base64
import io
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import skimage.data
from PIL import Image

from benchmarks.processes import api

ARMS = {
    "batched": {},
    "one by one": {"CLIPCANVAS_MAX_BATCH_IMAGES": "1", "CLIPCANVAS_MAX_BATCH_TEXTS": "1"},
}


def main() -> None:
    """Run every case against every arm, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=5, help="of each measurement, after a second of warm-up"
    )
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--model", default="demo-photo")
    arguments = parser.parse_args()
    numbers = itertools.count()
    picture = photo()
    bodies: dict[str, Callable[[], bytes]] = {
        "text, new each time": lambda: embed(f"a photo of thing number {next(numbers)}"),
        "text, in the cache": lambda: embed("a photo of a cat."),
        "image, 640 x 480 JPEG": lambda: embed({"image": f"{picture}{next(numbers):012d}"}),
    }
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"{arguments.model}, {cores} cores, load {load:.1f} before the start\n")
    print(
        "| Case | Callers | Service | Requests/s | p50 ms | p95 ms | p99 ms |\n| --- " + "| ---: " * 6 + "|"
    )
    with ExitStack() as stack:
        ports = {}
        for arm, settings in ARMS.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clipcanvas-")))
            ports[arm] = stack.enter_context(api(folder, [arguments.model], settings)).port
        for (case, body), callers, (arm, port) in itertools.product(
            bodies.items(), arguments.callers, ports.items()
        ):
            asyncio.run(measure(port, body, callers, 1.0))
            seconds = asyncio.run(measure(port, body, callers, arguments.seconds))
            p50, p95, p99 = (1000 * statistics.quantiles(seconds, n=100)[at - 1] for at in (50, 95, 99))
            rate = len(seconds) / arguments.seconds
            print(
                f"| {case} | {callers} | {arm} | {rate:.0f} | {p50:.1f} | {p95:.1f} | {p99:.1f} |", flush=True
            )


def embed(item: object) -> bytes:
    """A whole request for one embedding."""
    body = json.dumps({"input": [item], "encoding_format": "base64"}).encode()
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}"
    )
    return head.encode() + b"\r\n\r\n" + body


def photo() -> str:
    """A real photo, 640 x 480, as base64 of a JPEG; more may follow, so that no two files are the same."""
    file = io.BytesIO()
    Image.fromarray(skimage.data.coffee()).resize((640, 480)).save(file, "JPEG", quality=90)
    data = file.getvalue()
    return base64.b64encode(data + b"\0" * (-len(data) % 3)).decode()


async def measure(port: int, body: Callable[[], bytes], callers: int, seconds: float) -> list[float]:
    """Ask for so long, with so many callers at once -> the seconds of each answered request."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < end:
            writer.write(body())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(head.decode())
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            taken.append(time.perf_counter() - began)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(ask() for _ in range(callers)))
    return taken


if __name__ == "__main__":
    main()
