"""Do drawings that share a device take longer than in a row, and are their losses the same?

`OMP_NUM_THREADS=1 python -m benchmarks.company` (demo models; `benchmarks.drawing_jobs` asks it of a service)
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from models.generators import complete
from models.generators.vqgan_clip import VqganClip
from models.networks.shared_networks import Networks
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.runtime.batched_steps import Alternating, Company, Joined
from models.runtime.machine import keep_freed_memory


def main() -> None:
    """Measure both kinds of company in turns with a row, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drawings", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory(one_heap=True)
    networks = Networks(NetworkNames())
    # on a CPU the time of this process alone: other processes then lengthen nothing
    clock = time.process_time if networks.device.type == "cpu" else time.perf_counter
    draw(networks, 2, 0)
    print("| company | in a row, s | at once, s | ratio | greatest difference of last losses |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for _ in range(chosen.rounds):
        started = clock()
        row = [draw(networks, chosen.steps, seed) for seed in range(chosen.drawings)]
        row_s = clock() - started
        for company in (Alternating(), Joined()):
            shared = in_company(networks, company)
            started = clock()
            with ThreadPoolExecutor(chosen.drawings) as threads:
                losses = list(threads.map(partial(draw, shared, chosen.steps), range(chosen.drawings)))
            at_once_s = clock() - started
            difference = max(abs(one - other) for one, other in zip(row, losses, strict=True))
            print(
                f"| {type(company).__name__} | {row_s:.2f} | {at_once_s:.2f} | {at_once_s / row_s:.2f} "
                f"| {difference:.1e} |",
                flush=True,
            )


def in_company(networks: Networks, company: Company) -> Networks:
    """The same networks, for drawings that share the device in this way."""
    shared = Networks(networks.names)
    shared.__dict__.update(networks.__dict__, company=company)
    return shared


def draw(networks: Networks, steps: int, seed: int) -> float:
    """The last loss of a drawing with the demo's defaults."""
    request = complete(
        networks.names,
        generator="vqgan_clip",
        prompts=parse("a red heart"),
        steps=steps,
        seed=seed,
    )
    *_, last = VqganClip(networks).generate(request, seed=seed, pictures={})
    assert last.loss is not None
    return last.loss()


if __name__ == "__main__":
    main()
