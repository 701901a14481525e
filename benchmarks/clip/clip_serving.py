"""How near does CLIP over HTTP come to the bare model, and how does it behave under load? Prints tables.

    python -m benchmarks.clip.clip_serving --model demo-photo --cases image text

Real processes: a Redis server and `python -m app`, asked by callers in a process of their own that send their
next request when they have the answer to the last. In the same run: the *limit*, a bare loop on all cores
(`bare_clip`), and *naive*, open_clip called in a FastAPI handler (`naive_clip`). ViT-B-32 and thin, which has
one layer, have random weights. Callers and service share this machine's cores, unless they are kept apart;
the limit has the service's for itself.
"""

import argparse
import base64
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import skimage.data
from PIL import Image

from benchmarks.clip import bare_clip, random_clip
from benchmarks.clip.bare_clip import Bare
from benchmarks.clip.callers import Callers, Outcome, Request, percentile_ms
from benchmarks.clip.queueing import ideal_times_s
from benchmarks.service.processes import Server, api, free_port, start
from models.clip.cards import find_card
from models.clip.parts import write_whole
from models.weights_io.card import WEIGHTS

JSON = "application/json"
HEADER = (
    "| what | callers | items/s | of the limit | CPU ms each | p50 ms | p95 ms | p99 ms | refused | load |"
)
RULE = "| --- " + "| ---: " * 9 + "|"


@dataclass(frozen=True)
class Case:
    """What is asked, and what the bare loop does for it."""

    name: str
    picture: bytes | None  # a JPEG; none: texts
    items: int = 1  # of a request

    def request(self) -> Request:
        """A request of our own API for embeddings."""
        if self.picture is None:
            before, joint = b'{"encoding_format":"base64","input":["', b'","'
            text = b"a photo of thing number "
            return Request("/v1/embeddings", JSON, before + text, "number", b'"]}', self.items, joint + text)
        mark = "clipcanvas-benchmark"
        field = f'--{mark}\r\nContent-Disposition: form-data; name="encoding_format"\r\n\r\nbase64\r\n'
        part = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
        after = self.picture[2:] + f"\r\n--{mark}--\r\n".encode()
        return Request(
            "/v1/embeddings", f"multipart/form-data; boundary={mark}", (field + part).encode(), "jpeg", after
        )

    def naive_request(self) -> Request:
        """The same of `naive_clip`."""
        if self.picture is None:
            return Request("/text", "text/plain", b"a photo of thing number ", "number", b"")
        return Request("/image", "image/jpeg", b"", "jpeg", self.picture[2:])


def jpeg(width: int, height: int) -> bytes:
    """A real photo of that size."""
    file = io.BytesIO()
    photo = Image.fromarray(skimage.data.coffee()).resize((width, height), Image.Resampling.LANCZOS)
    photo.save(file, "JPEG", quality=90)
    return file.getvalue()


def cases() -> dict[str, Case]:
    """All there are, by the name that `--cases` takes."""
    return {
        "text": Case("text", None),
        "texts": Case("32 texts a request", None, 32),
        "image": Case("image, 640x480", jpeg(640, 480)),
        "large": Case("image, 4000x3000", jpeg(4000, 3000)),
    }


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo-photo", help="a card, local-dir:FOLDER, ViT-B-32 or thin")
    parser.add_argument(
        "--dtype", default="auto", help="as CLIPCANVAS_CLIP_DTYPE, of the service and the limit"
    )
    parser.add_argument("--cases", nargs="+", choices=cases(), default=["text", "image"])
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement, after a warm-up")
    parser.add_argument("--no-limit", action="store_true", help="measure neither the limit nor naive")
    parser.add_argument("--apart", action="store_true", help="callers on one core, all else on the others")
    parser.add_argument("--load", action="store_true", help="half load, twice the capacity, cached labels")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="ask for so long, and print the memory")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clipcanvas-")))
        model = options.model
        if model in ("ViT-B-32", "thin"):
            model = random_clip.save(folder / model, model)
        own = max(os.sched_getaffinity(0)) if options.apart else None
        callers = stack.enter_context(Callers(own))
        if own is not None:
            os.sched_setaffinity(0, os.sched_getaffinity(0) - {own})  # and what is started from here
        chosen = [cases()[name] for name in options.cases]
        cores = len(os.sched_getaffinity(0))
        print(f"{options.model} in {options.dtype}, {cores} cores, load {load()} before the start\n")
        if options.soak:
            soak(folder, model, options.dtype, callers, options.soak)
            return
        for case in chosen:
            limit = 0.0 if options.no_limit else show_limit(case, model, options.dtype)
            print(f"\n{HEADER}\n{RULE}")
            if not options.no_limit and model != "thin":
                with naive(folder, model) as server:
                    for count in (1, 16):
                        outcome = callers.ask(server, case.naive_request(), count, options.seconds)
                        show("naive", outcome, count, limit)
            with api(folder, [model], {"CLIPCANVAS_CLIP_DTYPE": options.dtype}) as server:
                for count in options.callers:
                    outcome = callers.ask(server, case.request(), count, options.seconds)
                    show(case.name, outcome, count, limit)
                if options.load:
                    show_load(callers, server, case, options.seconds)


def show_limit(case: Case, model: str, dtype: str) -> float:
    """Print what the bare loop does of a case; its items a second."""
    cores = len(os.sched_getaffinity(0))
    batch = 64 if case.picture is None else 8
    speeds = bare_clip.speeds(Bare(model, dtype, case.picture, batch), cores)
    print(f"\n| {case.name}, bare, by {batch} | per second | CPU ms each |\n| --- | ---: | ---: |")
    for way, speed in speeds.items():
        print(f"| {way} | {speed.rate:.1f} | {speed.cpu_ms:.1f} |")
    limit = max(speed.rate for speed in speeds.values())
    alone = {n: bare_clip.latency_s(Bare(model, dtype, case.picture, 1, n)) for n in {cores, 1}}
    for threads, seconds in alone.items():
        print(f"| one alone, {threads} threads of torch: {1000 * seconds:.1f} ms | {1 / seconds:.1f} |")
    more = max(0.0, (batch * cores / limit - alone[1]) / (batch - 1))  # seconds for each but the first
    ideal = ideal_times_s(limit / 2, lambda count: alone[1] + more * (count - 1), cores=cores, most=batch)
    p50, p99 = (percentile_ms(ideal, percent) for percent in (50, 99))
    print(f"\nAn ideal service at half of the limit, at random: p50 {p50:.1f} ms, p99 {p99:.1f} ms,", end=" ")
    print(f"{p99 / p50:.2f} of p50", flush=True)
    return limit


def show(what: str, outcome: Outcome, count: int | str, limit: float) -> None:
    """Print a row."""
    rate = outcome.rate * outcome.items
    share = f"{rate / limit:.2f}" if limit else ""
    times = " | ".join(f"{outcome.ms(percent):.1f}" for percent in (50, 95, 99))
    refused = sum(outcome.statuses.values()) - outcome.statuses["200"]
    row = [what, count, f"{rate:.1f}", share, f"{outcome.cpu_ms:.1f}", times, refused, load()]
    print(f"| {' | '.join(map(str, row))} |", flush=True)


def show_load(callers: Callers, server: Server, case: Case, seconds: float) -> None:
    """Rows for requests that come on their own, at half and at twice what the service can do."""
    peak = callers.ask(server, case.request(), 64, seconds)
    show(f"{case.name}, peak", peak, 64, 0)
    even = callers.ask_at(server, case.request(), peak.rate / 2, 2 * seconds, evenly=True)
    show(f"{case.name}, half load, evenly", even, "open", 0)
    half = callers.ask_at(server, case.request(), peak.rate / 2, 2 * seconds)
    show(f"{case.name}, half load, at random", half, "open", 0)
    peaks, twices = [peak], []
    for _ in range(3):  # in turns: machines change their speed
        twices.append(callers.ask_at(server, case.request(), peak.rate * 2, 4 * seconds))
        show(f"{case.name}, twice the load", twices[-1], "open", 0)
        peaks.append(callers.ask(server, case.request(), 64, seconds))
        show(f"{case.name}, peak again", peaks[-1], 64, 0)
    refused_s = [taken for twice in twices for taken in twice.refused_s]
    refusals = " and ".join(f"{percentile_ms(refused_s, percent):.0f} ms" for percent in (50, 95))
    even_ratio, ratio = (outcome.ms(99) / outcome.ms(50) for outcome in (even, half))
    print(f"\nhalf load: p99 is {even_ratio:.2f} of p50 evenly, {ratio:.2f} at random")
    share = mean(twice.rate for twice in twices) / mean(peak.rate for peak in peaks)
    print(f"twice the load: {share:.3f} of the peak's throughput; refusals take {refusals} (p50 and p95)")
    if case.picture is not None:
        show_labels(callers, server, case.picture, seconds)


def show_labels(callers: Callers, server: Server, picture: bytes, seconds: float) -> None:
    """A classification by 1,000 labels that are cached, beside a plain embedding."""
    labels = json.dumps([f"thing number {number}" for number in range(1000)])
    rest = base64.b64encode(picture[2:])  # the 18 bytes before it are whole groups of base64
    before = f'{{"top_k":5,"labels":{labels},"images":["'.encode()
    classify = Request("/v1/classify", JSON, before, "jpeg64", rest + b'"]}')
    plain = Request(
        "/v1/embeddings", JSON, b'{"encoding_format":"base64","input":[{"image":"', "jpeg64", rest + b'"}]}'
    )
    print(f"\n{HEADER}\n{RULE}")
    for count in (1, 16):
        embedded = callers.ask(server, plain, count, seconds)
        classified = callers.ask(server, classify, count, seconds)
        show("plain embedding", embedded, count, 0)
        show("1,000 cached labels", classified, count, embedded.rate)


def soak(folder: Path, model: str, dtype: str, callers: Callers, seconds: float) -> None:
    """Ask for all kinds of things for long, and print the memory of the service as it goes."""
    requests = [case.request() for case in cases().values()]
    print("| minutes | memory of the API, MB | answered | refused |\n| ---: | ---: | ---: | ---: |")
    with api(folder, [model], {"CLIPCANVAS_CLIP_DTYPE": dtype}) as server:
        began, answered, refused = time.monotonic(), 0, 0
        while (elapsed := time.monotonic() - began) < seconds:
            for request in requests:
                outcome = callers.ask(server, request, 16, min(10.0, seconds / 6))
                answered += outcome.statuses["200"]
                refused += sum(outcome.statuses.values()) - outcome.statuses["200"]
            print(f"| {elapsed / 60:.1f} | {server.resident_mb():.0f} | {answered} | {refused} |", flush=True)


@contextmanager
def naive(folder: Path, model: str) -> Iterator[Server]:
    """`naive_clip`, running."""
    port = free_port()
    card = find_card(model, WEIGHTS)
    place = write_whole(card, WEIGHTS, folder / "whole") if card.parts(WEIGHTS) else card.folder(WEIGHTS)
    command = [sys.executable, "-m", "benchmarks.clip.naive_clip", str(place), str(port)]
    with start(command, folder / "naive.log", port, {}, "/health") as running:
        yield running


def load() -> str:
    """The load average of the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
