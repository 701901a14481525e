"""How fast does our loop draw beside a plain one, and in how much memory? Equal networks, cutouts and seed.

`python -m benchmarks.drawing_speed` runs each loop in a process of its own, turn by turn.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from benchmarks import reference
from models.generators import complete
from models.generators.vqgan_clip import VqganClip
from models.networks import NetworkNames, Networks
from models.prompts import parse

RATE = 0.27
PLAIN = {
    "start": "random",
    "cutout_method": "original",
    "learning_rate": RATE,
    "learning_rate_hold": 1.0,
    "beta2": 0.999,
    **dict.fromkeys(("init_weight", "commitment", "background", "smoothness", "contrast"), 0),
    "templates": ["{prompt}"],
}


def main() -> None:
    """Measure in turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=96, help="pixels along each side")
    parser.add_argument("--cutouts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12, help="of each run; the first two are not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    chosen = vars(parser.parse_args())
    rounds = chosen.pop("rounds")
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    memory = dict.fromkeys(seconds, 0.0)
    losses = {}
    for _ in range(rounds):
        for loop in seconds:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                times, losses[loop], peak = process.submit(measure, loop, **chosen).result()
            seconds[loop] += times
            memory[loop] = max(memory[loop], peak)
    print(f"{'loop':<6} {'s/step p50':>10} {'p95':>7} {'steps/s':>8} {'peak MiB':>8} {'last loss':>10}")
    for loop, times in seconds.items():
        p50, p95 = statistics.median(times), sorted(times)[int(0.95 * (len(times) - 1))]
        print(
            f"{loop:<6} {p50:>10.3f} {p95:>7.3f} {1 / p50:>8.2f} {memory[loop]:>8.0f} {losses[loop]:>10.6f}"
        )
    ratio = statistics.median(seconds["plain"]) / statistics.median(seconds["ours"])
    print(f"ours is {ratio:.2f} times as fast as the plain loop")


def measure(
    loop: str, *, size: int, cutouts: int, steps: int, threads: int
) -> tuple[list[float], float, float]:
    """Seconds of each step but the first two, the last loss, and the process's highest memory in MiB."""
    torch.set_num_threads(threads)
    run = _ours if loop == "ours" else _plain
    networks = Networks(NetworkNames())
    # on a CPU the time of this process alone: other processes then lengthen nothing
    clock = time.process_time if networks.device.type == "cpu" else time.perf_counter
    times, losses, started = [], [], clock()
    for loss in run(networks, size, cutouts, steps):
        times.append(clock() - started)
        losses.append(loss)
        started = clock()
    return times[2:], losses[-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _ours(networks: Networks, size: int, cutouts: int, steps: int) -> Iterator[float]:
    options: dict[str, Any] = {**PLAIN, "cutouts": cutouts}
    request = complete(
        networks.names,
        generator="vqgan_clip",
        prompts=parse("a red heart"),
        width=size,
        height=size,
        steps=steps,
        seed=1,
        options=options,
    )
    generator = VqganClip(networks)
    for step in generator.generate(request, seed=1, pictures={}):
        assert step.loss is not None
        yield step.loss()


def _plain(networks: Networks, size: int, cutouts: int, steps: int) -> Iterator[float]:
    vqgan, clip = networks.vqgan(), networks.guides()[0]
    functions = reference.Networks(
        decode=lambda latents: vqgan.decode(latents) * 2 - 1,
        codebook=vqgan.codebook,
        encode_image=lambda pixels: clip.encode_image(pixels * clip.std + clip.mean),
        mean=clip.mean,
        std=clip.std,
        size=clip.image_size,
    )
    with torch.no_grad():
        text = clip.encode_text(["a red heart"])
    grid = (size // vqgan.factor, size // vqgan.factor)
    return reference.draw(
        functions,
        text,
        [1.0],
        [-torch.inf],
        grid=grid,
        steps=steps,
        cutouts=cutouts,
        seed=1,
        learning_rate=RATE,
    )


if __name__ == "__main__":
    main()
