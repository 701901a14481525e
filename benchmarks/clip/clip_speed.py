"""How many pictures and texts a second does a CLIP encode, by batch size, and what does trimming texts save?

`python -m benchmarks.clip.clip_speed --model demo-photo` prints one table; ViT-B-32 has random weights.
Each row
runs for some seconds after a warm-up. On a CPU times are CPU time of all threads, so that other work on
the machine counts for little; elsewhere they are what a clock says.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.clip import random_clip
from models.clip.encoder import OpenClipEncoder
from models.runtime.machine import keep_freed_memory
from models.weights_io.card import WEIGHTS

Clock = Callable[[], float]  # seconds

LABELS = (
    "cat",
    "a red sports car",
    "coffee",
    "a lighthouse in fog",
    "temple",
    "a slice of pizza",
    "rocket",
    "dog",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", default="demo-photo", help="a card, or a source such as local-dir:DIR")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where relative sources start")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--dtype", default="fp32", help="auto, fp32, bf16, fp16, int8")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64], metavar="N", help="sizes")
    parser.add_argument("--seconds", type=float, default=3, help="how long each row is measured")
    options = parser.parse_args()
    keep_freed_memory(one_heap=True)  # as the API does
    torch.set_num_threads(options.threads)
    model = options.model
    if model == "ViT-B-32":
        model = random_clip.save(Path(tempfile.mkdtemp(prefix="clipcanvas-")) / model, model)
    start = time.perf_counter()
    encoder = OpenClipEncoder.load(model, options.weights, options.device, options.dtype)
    load_s = time.perf_counter() - start

    place = f"{encoder.network.device}, {options.dtype}, {options.threads} threads"
    table = Table(
        "what",
        *(f"{column}" for column in ("batch", "per second", "p50 ms")),
        title=f"{options.model} on {place}, loaded in {load_s:.1f} s; load average {os.getloadavg()[0]:.1f}",
    )
    photo = Image.effect_noise((640, 480), 64).convert("RGB")
    clock = time.process_time if encoder.on_cpu else time.perf_counter
    for exact in (True, False):
        what = f"preprocess a 640x480 picture{', exactly' if exact else ''}"
        prepare = partial(encoder.preprocess, photo, exact=exact)
        add_row(table, what, 1, options.seconds, prepare, clock)
    pixels = encoder.preprocess(photo)[None]
    for batch in options.batches:
        images = np.repeat(pixels, batch, axis=0)
        add_row(
            table,
            "encode pictures",
            batch,
            options.seconds,
            lambda images=images: encoder.encode_images(images),
            clock,
        )
    for trims in [True, False] if encoder.network.trims_texts else [False]:
        encoder.network.trims_texts = trims
        for batch in options.batches:
            texts = [f"a photo of a {LABELS[index % len(LABELS)]}" for index in range(batch)]
            what = "encode texts, trimmed" if trims else "encode texts, whole context"
            add_row(table, what, batch, options.seconds, partial(encoder.encode_texts, texts), clock)
    Console(width=120).print(table)


def add_row(
    table: Table, what: str, batch: int, seconds: float, run: Callable[[], object], clock: Clock
) -> None:
    """Measure `run` over and over and add what came out."""
    for _ in range(3):
        run()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 5:
        start = clock()
        run()
        times.append(clock() - start)
    median = statistics.median(times)
    table.add_row(what, str(batch), f"{batch / median:,.0f}", f"{median * 1e3:.1f}")


if __name__ == "__main__":
    main()
