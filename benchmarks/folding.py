"""What does it bring to fold a CLIP's batch norms into its convolutions, and what does it change?

`OMP_NUM_THREADS=1 python -m benchmarks.folding`
"""

import argparse
import statistics
import time

import torch

from models.clip.encoder import ClipNetwork, load_network
from models.weights_io.card import WEIGHTS


def main() -> None:
    """Measure both in turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", nargs="+", default=["demo-icons", "demo-photo"])
    parser.add_argument("--views", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print("| CLIP | unfolded, s | folded, s | ratio | greatest difference of embeddings |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in chosen.clips:
        plain, folded = load_network(name, WEIGHTS, fold=False), load_network(name, WEIGHTS)
        views = torch.rand(chosen.views, 3, plain.image_size, plain.image_size)
        rounds = [(step_s(plain, views), step_s(folded, views)) for _ in range(chosen.rounds)]
        before, after = (statistics.median(times) for times in zip(*rounds, strict=True))
        with torch.no_grad():
            difference = float((plain.encode_image(views) - folded.encode_image(views)).abs().max())
        print(f"| {name} | {before:.3f} | {after:.3f} | {after / before:.2f} | {difference:.1e} |")


def step_s(network: ClipNetwork, views: torch.Tensor) -> float:
    """Seconds of this process for views forth and back, as in a step of a drawing."""
    views = views.clone().requires_grad_(True)
    started = time.process_time()
    network.encode_image(views).sum().backward()  # type: ignore[no-untyped-call]
    return time.process_time() - started


if __name__ == "__main__":
    main()
