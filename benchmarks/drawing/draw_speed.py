"""How fast does our loop draw beside a plain one, and in how much memory? Equal weights, views and seed.

`python -m benchmarks.drawing.draw_speed` runs each loop in a process of its own, and takes a step
of each in turns.
The plain loop is `benchmarks/drawing/reference.py` on networks as libraries build them: taming's decoder and
open_clip's visual tower, batch norms as they are, tensors in torch's default layout; `plain bf16` is the same
under autocast.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch import nn

from benchmarks.drawing import reference
from benchmarks.drawing.memory import LiveBytes
from models.clip.cards import find_card
from models.clip.encoder import ClipNetwork
from models.clip.parts import assemble
from models.clip.precision import pick_precision
from models.generators import _vqgan_latents, complete
from models.networks import vqgan
from models.networks.shared_networks import Networks
from models.networks.vqgan.vqgan_model import Vqgan
from models.requests.generator import Drawing
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.runtime.batched_steps import RoundRobin
from models.runtime.machine import keep_freed_memory
from models.weights_io.card import WEIGHTS

PROMPT = "a red heart"
PLAIN = {
    "start": "random",
    "learning_rate_hold": 1.0,
    "beta2": 0.999,
    **dict.fromkeys(("init_weight", "commitment", "background", "smoothness", "contrast"), 0),
    "templates": ["{prompt}"],
}
LOOPS = ("plain", "plain bf16", "ours", "ours bf16", "ours, defaults")


@dataclass(frozen=True)
class Case:
    """What is drawn; without a CLIP's card, ViT-B/32 and the VQGAN have random weights."""

    size: int  # pixels along each side
    cutouts: int
    learning_rate: float
    vqgan: str
    clip: str | None


CASES = {
    "demo": Case(128, 16, 0.27, "demo", "demo-icons"),
    "full": Case(256, 32, 1.0, "imagenet-f16-16384", None),
}


@dataclass(frozen=True)
class Measured:
    """What came of a loop.

    Attributes:
        seconds: of each step but the first two.
        losses: of every step.
        kernels: operations of torch in a step.
        memory: MiB that are alive at once in a step, beside the networks.
    """

    seconds: list[float]
    losses: list[float]
    kernels: int
    memory: float


def main() -> None:
    """Measure in turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, default="demo")
    parser.add_argument("--method", choices=list(reference.VIEWS), default="updated", help="cutouts")
    parser.add_argument("--steps", type=int, default=20, help="of each loop; the first two are not timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=LOOPS)
    chosen = parser.parse_args()
    found = measure(chosen.loops, CASES[chosen.case], chosen.method, chosen.steps, chosen.threads)
    first = chosen.loops[0]
    plain = found[first]
    print(f"| loop | s/step, p50 (p95) | against {first} | kernels | MiB | s to its loss | last loss |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for loop, measured in found.items():
        seconds, losses = sorted(measured.seconds), measured.losses
        p50, p95 = statistics.median(seconds), seconds[int(0.95 * (len(seconds) - 1))]
        # of steps that followed each other: what else the machine does meets both
        ratio = statistics.median(a / b for a, b in zip(plain.seconds, measured.seconds, strict=True))
        reached = next(
            (step for step, loss in enumerate(losses, 1) if loss <= min(plain.losses) + 1e-3), None
        )
        # the defaults' views and losses are others
        told = f"{reached * p50:.2f}" if reached and loop != "ours, defaults" else ""
        print(
            f"| {loop} | {p50:.3f} ({p95:.3f}) | {ratio:.2f} | {measured.kernels:,} | "
            f"{measured.memory:,.0f} | {told} | {losses[-1]:.5f} |"
        )


def measure(loops: Sequence[str], case: Case, method: str, steps: int, threads: int) -> dict[str, Measured]:
    """Take a step of each loop in turns, each in a process of its own."""
    with ExitStack() as stack:
        processes = {
            loop: stack.enter_context(
                ProcessPoolExecutor(
                    1,
                    multiprocessing.get_context("spawn"),
                    initializer=_begin,
                    initargs=(loop, case, method, steps + 1, threads),
                )
            )
            for loop in loops
        }
        taken = [
            {loop: process.submit(_step).result() for loop, process in processes.items()}
            for _ in range(steps)
        ]
        watched = {loop: process.submit(_watched_step).result() for loop, process in processes.items()}
    return {
        loop: Measured(
            [step[loop][0] for step in taken[2:]], [step[loop][1] for step in taken], *watched[loop]
        )
        for loop in loops
    }


_begun: dict[str, Any] = {}  # in a process of a loop: its steps, and the clock


def _begin(loop: str, case: Case, method: str, steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    if loop.startswith("ours"):
        keep_freed_memory()  # as a worker does
    torch.manual_seed(0)  # of random weights
    _begun["draw"] = (_ours if loop.startswith("ours") else _plain)(case, method, steps, loop)
    # of one thread the time of this process alone: other processes then lengthen nothing
    _begun["clock"] = time.process_time if threads == 1 else time.perf_counter


def _step() -> tuple[float, float]:
    """Seconds and loss."""
    started = _begun["clock"]()
    loss = next(_begun["draw"])
    return _begun["clock"]() - started, loss


def _watched_step() -> tuple[int, float]:
    """Kernels and MiB."""
    with _Watch() as watch:
        next(_begun["draw"])
    return watch.kernels, watch.peak / 2**20


class _Watch(LiveBytes):
    """Counts kernels, and the bytes that they make."""

    kernels = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.kernels += 1
        return super().__torch_dispatch__(func, types, args, kwargs)


def _ours(case: Case, method: str, steps: int, loop: str) -> Iterator[float]:
    names = NetworkNames(vqgan=case.vqgan, dtype="bf16" if "bf16" in loop else "fp32")
    networks: Any = Networks(names) if case.clip else _Given(case, names)
    same = {**PLAIN, "learning_rate": case.learning_rate, "cutout_method": method}
    request = complete(
        names,
        generator="vqgan_clip",
        prompts=parse(PROMPT),
        width=case.size,
        height=case.size,
        steps=steps,
        seed=1,
        options={"cutouts": case.cutouts, **({} if loop == "ours, defaults" else same)},
    )
    return (step.loss() for step in _vqgan_latents.generate(networks, Drawing(request, seed=1)) if step.loss)


def _plain(case: Case, method: str, steps: int, loop: str) -> Iterator[float]:
    network = vqgan.load(case.vqgan, WEIGHTS) if case.clip else _random_vqgan(case.vqgan)
    network.to(memory_format=torch.contiguous_format)
    clip, tokenizer = _random_clip() if case.clip is None else _clip(case.clip)
    mean, std = (torch.tensor(clip.visual.preprocess_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        text = nn.functional.normalize(clip.encode_text(tokenizer([PROMPT])), dim=-1)
    drawn = reference.draw(
        reference.Networks(
            decode=lambda latents: network.decoder(network.post_quant_conv(latents)),
            codebook=network.codebook,
            encode_image=clip.encode_image,
            mean=mean,
            std=std,
            size=clip.visual.image_size[0],
        ),
        text,
        [1.0],
        [-torch.inf],
        grid=(case.size // network.factor, case.size // network.factor),
        steps=steps,
        cutouts=case.cutouts,
        seed=1,
        learning_rate=case.learning_rate,
        method=method,  # type: ignore[arg-type]  # argparse has seen to it
    )
    with torch.autocast("cpu", torch.bfloat16) if "bf16" in loop else nullcontext():
        yield from drawn


class _Given:
    """Our networks, with random weights."""

    device = torch.device("cpu")

    def __init__(self, case: Case, names: NetworkNames) -> None:
        network = _random_vqgan(case.vqgan)
        if names.dtype == "bf16":
            network.halve()
        precision = pick_precision(names.dtype, self.device)
        clip = ClipNetwork("random", *_random_clip(), self.device, precision)
        self.vqgan, self.guides = lambda: network, lambda: [clip]
        self.prior = self.held_out = lambda: None
        self.scheduler = RoundRobin()


def _clip(name: str) -> tuple[Any, Any]:
    card = find_card(name)
    folder = card.folder(WEIGHTS)
    clip, _ = assemble(folder, card.parts(WEIGHTS))
    return clip.eval().requires_grad_(False), open_clip.get_tokenizer(f"local-dir:{folder}")


def _random_clip() -> tuple[Any, Any]:
    clip = open_clip.create_model("ViT-B-32-quickgelu").eval().requires_grad_(False)
    for parameter in clip.visual.parameters():
        if parameter.ndim > 1:
            parameter.mul_(2)  # as they are drawn, they see all pictures alike
    return clip, open_clip.get_tokenizer("ViT-B-32-quickgelu")


def _random_vqgan(name: str) -> Vqgan:
    card = vqgan.read_card(name)
    network = Vqgan(card.config, card.kind)
    # a codebook as wide as trained ones: taming's first one is all but zero
    codebook = torch.randn(network.codebook.shape) * 0.5
    network.read({**network.state_dict(), "quantize.embedding.weight": codebook})
    return network.to(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
