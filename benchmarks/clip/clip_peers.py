"""How fast is CLIP here beside other servers of it? The same weights, requests and callers; prints a table.

    python -m benchmarks.clip.clip_peers --infinity PYTHON --litserve PYTHON

A peer lives in a virtual environment of its own, whose interpreter is named:

    python -m venv infinity
    infinity/bin/pip install torch torchvision "infinity-emb[torch,server]" pillow timm aiohttp
    python -m venv litserve
    litserve/bin/pip install torch torchvision litserve open_clip_torch pillow

ViT-B/32 with random weights in fp32, ours also in what `auto` takes. Each peer is measured with torch's own
number of threads and with one, and the better of the two counts.
"""

import argparse
import base64
import json
import os
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import open_clip
from numpy.typing import NDArray

from benchmarks.clip import random_clip
from benchmarks.clip.callers import Callers, Outcome, Request
from benchmarks.clip.clip_serving import JSON, jpeg, load
from benchmarks.service.processes import ROOT, Server, api, free_port, start

PEERS = ROOT / "benchmarks" / "peers"
VOCABULARY = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
TEXT = b"a photo of thing number "


@dataclass(frozen=True)
class Arm:
    """A server to measure: who it is, how it is started, and how it is asked for one embedding."""

    name: str
    kind: str  # image | text
    folder: Path  # the model
    work: Path  # where logs go
    python: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[Server]:
        """The server."""
        if self.name == "ours":
            with api(self.work, [f"local-dir:{self.folder}"], self.environment) as server:
                yield server
            return
        port = free_port()
        if self.name == "infinity":
            options = f"--served-model-name clip --url-prefix /v1 --device cpu --dtype float32 --port {port}"
            binary = Path(self.python).with_name("infinity_emb")
            command = [str(binary), "v2", "--model-id", f"{self.folder}-hf", *options.split()]
            command += ["--host", "127.0.0.1", "--no-bettertransformer", "--batch-size", "32"]
        else:
            command = [self.python, str(PEERS / "litserve_clip.py"), str(self.folder), str(port), self.kind]
        environment = OFFLINE | self.environment
        with start(command, self.work / f"{self.name}.log", port, environment, "/health") as server:
            yield server

    def request(self, picture: bytes) -> Request:
        """One that gets one embedding, in base64."""
        image = self.kind == "image"
        data = b"data:image/jpeg;base64,"
        rest = base64.b64encode(picture[2:]) if image else b""
        kind = "jpeg64" if image else "number"
        if self.name == "litserve":
            return Request("/predict", JSON, b'{"input":"' + (data if image else TEXT), kind, rest + b'"}')
        if self.name == "infinity":
            what = b'"modality":"%s",' % self.kind.encode()
            before = b'{"model":"clip",' + what + b'"encoding_format":"base64","input":["'
            return Request("/v1/embeddings", JSON, before + (data if image else TEXT), kind, rest + b'"]}')
        before = b'{"encoding_format":"base64","input":[' + (b'{"image":"' + data if image else b'"' + TEXT)
        return Request("/v1/embeddings", JSON, before, kind, rest + (b'"}]}' if image else b'"]}'))


def main() -> None:
    """Measure ours, and the peers whose interpreters are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--infinity", metavar="PYTHON", help="interpreter of a venv with infinity")
    parser.add_argument("--litserve", metavar="PYTHON", help="interpreter of a venv with litserve")
    parser.add_argument("--kinds", nargs="+", choices=["text", "image"], default=["text", "image"])
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement, after a warm-up")
    options = parser.parse_args()
    peers = {name: getattr(options, name) for name in ("infinity", "litserve") if getattr(options, name)}
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clipcanvas-")))
        folder = work / "ViT-B-32"
        random_clip.save(folder, "ViT-B-32")
        if "infinity" in peers:
            convert = [peers["infinity"], str(PEERS / "hf_clip.py"), str(folder), str(VOCABULARY)]
            subprocess.run([*convert, f"{folder}-hf"], check=True, env={**os.environ, **OFFLINE})
        callers = stack.enter_context(Callers())
        picture = jpeg(640, 480)
        print(f"ViT-B/32, {os.cpu_count()} cores, load {load()} before the start\n")
        print("| what | server | callers | requests/s | CPU ms each | p50 ms | p99 ms | load |")
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for kind in options.kinds:
            arms = [
                Arm("ours", kind, folder, work, environment={"CLIPCANVAS_CLIP_DTYPE": dtype})
                for dtype in ("fp32", "auto")
            ]
            for name, python in peers.items():
                for threads in ({}, {"OMP_NUM_THREADS": "1"}):
                    arms.append(Arm(name, kind, folder, work, python, threads))
            found = [measure_arm(arm, callers, picture, options.callers, options.seconds) for arm in arms]
            compare(kind, arms, found, options.callers)


def measure_arm(
    arm: Arm, callers: Callers, picture: bytes, counts: list[int], seconds: float
) -> tuple[NDArray[np.float32], list[Outcome]]:
    """Print its rows; the embedding of one request, and what came of each number of callers."""
    outcomes = []
    said = " ".join(f"{name.removeprefix('CLIPCANVAS_')}={value}" for name, value in arm.environment.items())
    with arm.running() as server:
        row = first(server.port, arm.request(picture))
        for count in counts:
            outcome = callers.ask(server, arm.request(picture), count, seconds)
            outcomes.append(outcome)
            times = f"{outcome.cpu_ms:.1f} | {outcome.ms(50):.1f} | {outcome.ms(99):.1f}"
            written = f"{arm.kind} | {arm.name} {said} | {count} | {outcome.rate:.1f} | {times} | {load()}"
            print(f"| {written} |", flush=True)
    return row, outcomes


def compare(
    kind: str, arms: list[Arm], found: list[tuple[NDArray[np.float32], list[Outcome]]], counts: list[int]
) -> None:
    """Print our ratios to the best of the peers, and that all of them gave the same embedding."""
    cosines = [
        float(row @ found[0][0] / np.linalg.norm(row) / np.linalg.norm(found[0][0])) for row, _ in found
    ]
    print(f"\n{kind}: cosines with our fp32 embedding: {', '.join(f'{cosine:.5f}' for cosine in cosines)}")
    peers = [outcomes for arm, (_, outcomes) in zip(arms, found, strict=True) if arm.name != "ours"]
    for arm, (_, outcomes) in zip(arms, found, strict=True):
        for index, count in enumerate(counts if peers and arm.name == "ours" else ()):
            rate = max(outcome[index].rate for outcome in peers)
            p50 = min(outcome[index].ms(50) for outcome in peers)
            cpu_ms = min(outcome[index].cpu_ms for outcome in peers)
            ratios = f"{outcomes[index].rate / rate:.2f} of the best peer's throughput"
            ratios += f", {outcomes[index].ms(50) / p50:.2f} of the least p50"
            ratios += f", {outcomes[index].cpu_ms / cpu_ms:.2f} of the least CPU time"
            print(f"{kind}, ours in {arm.environment['CLIPCANVAS_CLIP_DTYPE']}, {count} callers: {ratios}")
    print(flush=True)


def first(port: int, request: Request) -> NDArray[np.float32]:
    """The embedding that a request is answered with."""
    body = request.of(0).partition(b"\r\n\r\n")[2]
    url = f"http://127.0.0.1:{port}{request.path}"
    with urllib.request.urlopen(
        urllib.request.Request(url, body, {"Content-Type": JSON}), timeout=120
    ) as answer:
        said = json.load(answer)
    embedding = said["embedding"] if "embedding" in said else said["data"][0]["embedding"]
    return np.frombuffer(base64.b64decode(embedding), "<f4")


if __name__ == "__main__":
    main()
