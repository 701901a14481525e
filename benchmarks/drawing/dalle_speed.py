"""How many codes a second does dalle's sampler choose with its cache, and how many a loop without one?

`python -m benchmarks.drawing.dalle_speed --candidates 1 16` samples with both in one run.
"""

import argparse
import time

import torch

from models.generators import complete
from models.networks.autoregressive import Choice, Conditioning, Sampler, choose
from models.networks.shared_networks import Networks
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.sampling.candidates import condition_on_text

CHOICE = Choice(temperature=1, top_k=0, top_p=0.95)
LENGTH = 144
SEED = 0


def main() -> None:
    """Sample, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--prompt", default="a red heart")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    names = NetworkNames(device=chosen.device)
    request = complete(names, generator="dalle", prompts=parse(chosen.prompt), seed=SEED)
    conditioning = condition_on_text(request, 3, Networks(names))
    print(
        f"{'pictures':>8} {'cached: s':>10} {'codes/s':>8} {'plain: s':>9} {'codes/s':>8} {'ratio':>6} same"
    )
    for number in chosen.candidates:
        with torch.no_grad():
            cached(conditioning, 1)  # warm
            started = time.perf_counter()
            first = cached(conditioning, number)
            seconds = time.perf_counter() - started
            started = time.perf_counter()
            second = plain(conditioning, number)
            plain_s = time.perf_counter() - started
        codes = number * LENGTH
        same = (first == second).float().mean()
        print(
            f"{number:>8} {seconds:>10.2f} {codes / seconds:>8.0f} {plain_s:>9.2f} {codes / plain_s:>8.0f} "
            f"{plain_s / seconds:>6.1f} {same:.0%}"
        )


def cached(conditioning: Conditioning, number: int) -> torch.Tensor:
    """As the generator does it: (N, 144)"""
    kept = torch.empty(0, dtype=torch.long)
    sampler = Sampler(conditioning, number=number, length=LENGTH, kept=kept, choice=CHOICE, seed=SEED)
    for _ in range(LENGTH):
        sampler.next()
    return sampler.codes


def plain(conditioning: Conditioning, number: int) -> torch.Tensor:
    """The same by reading all that there is anew for each code: (N, 144)"""
    network, known = conditioning.transformer, conditioning.conditions
    assert known.beside is not None
    assert known.bias is not None
    chances = torch.rand(number, LENGTH, generator=torch.Generator().manual_seed(SEED))
    codes = torch.empty(number, 0, dtype=torch.long, device=network.positions.device)
    before, beside, bias = (
        part.repeat_interleave(number, 0) for part in (known.before, known.beside, known.bias)
    )
    for place in range(LENGTH):
        drawn = torch.cat([before[:, -1:], network.tokens(codes.repeat(len(conditioning.mix), 1))], 1)
        inputs = torch.cat([before[:, :-1], drawn + beside[:, : place + 1]], 1)
        logits = (network(inputs)[:, -1] + bias[:, place]).unflatten(0, (len(conditioning.mix), number))
        mixed = torch.einsum("p,pnk->nk", conditioning.mix, logits)
        codes = torch.cat([codes, choose(mixed, chances[:, place].to(codes.device), CHOICE)[:, None]], 1)
    return codes


if __name__ == "__main__":
    main()
