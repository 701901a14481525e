"""The limit of a CLIP service: decode, preprocess and encode in a bare loop, without HTTP, on all cores.

Every worker does all of it for itself with one thread of torch, so no core waits for another. `clip_serving`
measures it in processes and in threads, and takes the fastest.
"""

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing import get_context
from typing import Any

import numpy as np

from jobs.images import ImageLimits, decode
from models.runtime.machine import keep_freed_memory
from models.weights_io.card import WEIGHTS

NO_LIMITS = ImageLimits(pixels=10**9, side=10**6, aspect=10**6)


@dataclass(frozen=True)
class Bare:
    """What is done in the loop.

    Args:
        picture: a JPEG file; none: texts.
    """

    model: str
    dtype: str
    picture: bytes | None
    batch: int
    torch_threads: int = 1
    seconds: float = 4

    def load(self) -> Callable[[], object]:
        """One round of the loop."""
        import torch

        from models.clip.encoder import OpenClipEncoder

        keep_freed_memory(one_heap=True)
        torch.set_num_threads(self.torch_threads)
        encoder = OpenClipEncoder.load(self.model, WEIGHTS, "cpu", self.dtype)
        numbers = count(10**8)  # as long as those of the callers

        def images() -> object:
            assert self.picture is not None
            draft = encoder.draft_size
            pictures = [decode(self.picture, NO_LIMITS, draft) for _ in range(self.batch)]
            return encoder.encode_images(
                np.stack([encoder.preprocess(picture, exact=False) for picture in pictures])
            )

        def texts() -> object:
            return encoder.encode_texts(
                [f"a photo of thing number {next(numbers)}" for _ in range(self.batch)]
            )

        return texts if self.picture is None else images


@dataclass(frozen=True)
class Speed:
    """What a way of doing it came to."""

    rate: float  # items a second
    cpu_ms: float  # CPU time of an item


def speeds(bare: Bare, workers: int) -> dict[str, Speed]:
    """By the way of doing it: the limit is the fastest."""
    return {
        f"{workers} processes": _run(bare, workers, 1),
        f"{workers} threads": _run(bare, 1, workers),
        "one loop, torch on all cores": _run(replace(bare, torch_threads=workers), 1, 1),
    }


def latency_s(bare: Bare) -> float:
    """Seconds of one item alone, the median."""
    work = get_context("spawn").Pool(1).apply(_times, (replace(bare, batch=1),))
    return statistics.median(work)


def _run(bare: Bare, processes: int, threads: int) -> Speed:
    context = get_context("spawn")
    barrier, results = context.Barrier(processes * threads), context.SimpleQueue()
    running = [
        context.Process(target=_worker, args=(bare, threads, barrier, results)) for _ in range(processes)
    ]
    for process in running:
        process.start()
    found = [results.get() for _ in range(processes * threads)]
    for process in running:
        process.join()
    items = sum(done for done, _, _ in found)
    cpu_ms = 1000 * sum(cpu for _, _, cpu in found) / items
    return Speed(sum(done / seconds for done, seconds, _ in found), cpu_ms)


def _worker(bare: Bare, threads: int, barrier: Any, results: Any) -> None:
    once = bare.load()
    clock = time.thread_time if bare.torch_threads == 1 else time.process_time

    def loop() -> None:
        import torch

        torch.set_num_threads(bare.torch_threads)
        once()
        barrier.wait()
        began, cpu, done = time.perf_counter(), clock(), 0
        while time.perf_counter() < began + bare.seconds:
            once()
            done += bare.batch
        results.put((done, time.perf_counter() - began, clock() - cpu))

    running = [threading.Thread(target=loop) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def _times(bare: Bare) -> list[float]:
    once, times = bare.load(), []
    for _ in range(3):
        once()
    while sum(times) < bare.seconds:
        began = time.perf_counter()
        once()
        times.append(time.perf_counter() - began)
    return times
