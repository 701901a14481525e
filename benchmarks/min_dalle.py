"""How long does DALL-E mini take in its real size, and how much memory, beside what is predicted?

`python -m benchmarks.min_dalle --dtype bf16 --candidates 1 8` writes random weights of that size as converted
ones are, loads them as a worker does, and draws; each line is of a process of its own.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.catalog.memory import predict
from models.generators import complete, find
from models.networks.min_dalle import DECODER, DETOKER, ENCODER, MERGES, VOCABULARY, read_card
from models.networks.min_dalle.min_dalle_model import Decoder, Encoder
from models.networks.shared_networks import Networks
from models.networks.vqgan.vqgan_model import Vqgan
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.weights_io.card import WEIGHTS

GB = 1e9


def main() -> None:
    """Draw, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="min-dalle-mini")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    print("| model | dtype | candidates | CPU s to load | a picture | codes per CPU s | GB | predicted |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), chosen.model)
        for number in chosen.candidates:
            names = NetworkNames(
                min_dalle=chosen.model, weights=Path(folder), device=chosen.device, dtype=chosen.dtype
            )
            # on a CPU, memory is the most that a process has ever had: each needs one of its own
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                print(pool.submit(measure, names, number).result(), flush=True)


def write(weights: Path, name: str) -> None:
    """A model's files with random weights, and the guide's beside it."""
    card, folder = read_card(name), weights / name
    folder.mkdir()
    for shared in ("clip-icons", "clip-words"):
        (weights / shared).symlink_to(WEIGHTS / shared)
    with torch.device("meta"):
        vqgan = Vqgan(card.config, "VQModel")
        networks = {ENCODER: Encoder(card), DECODER: Decoder(card), DETOKER: vqgan}
    for file, network in networks.items():
        state = network.state_dict()
        if file == DETOKER:
            state = {key: tensor for key, tensor in state.items() if not key.startswith(("enc", "quant_"))}
        save_file(random(state), folder / file)
    (folder / VOCABULARY).write_text(json.dumps({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}))
    (folder / MERGES).write_text("#version: 0.2\n")


def random(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of these shapes in fp16, as the published ones."""
    rng = torch.Generator().manual_seed(0)
    return {
        name: (torch.ones if tensor.ndim == 1 and name.endswith("weight") else torch.zeros)(tensor.shape)
        .add_(torch.empty(tensor.shape).normal_(std=0.02, generator=rng))
        .half()
        for name, tensor in state.items()
    }


def measure(names: NetworkNames, candidates: int) -> str:
    """A line of the table."""
    prompts = parse("a red heart")
    request = complete(
        names, generator="min_dalle", prompts=prompts, seed=0, options={"candidates": candidates}
    )
    started = time.process_time()
    networks = Networks(names)
    generator = find("min_dalle").load(networks)
    loaded = time.process_time()
    for step in generator.generate(request, seed=0, pictures={}):
        if step.is_last:
            step.render()
    seconds = time.process_time() - loaded
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if networks.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(networks.device)
    cells = [names.min_dalle, names.dtype, candidates, f"{loaded - started:.1f}", f"{seconds:.1f}"]
    cells += [f"{candidates * request.steps / seconds:.1f}", f"{memory / GB:.2f}"]
    cells += [f"{predict(request, names, frugal=False) / GB:.2f}"]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
