"""How much memory do the networks and whole drawings take, and how near is the prediction?

`python -m benchmarks.drawing.memory` measures each network of the cards without its weights:
open_clip and taming
build it on the meta device, and a step is followed through torch's fake tensors, which have sizes and no
values. So the largest is measured on any machine, within seconds. Then it draws with the demo models and
measures what is alive at once, and what the process has taken from the system.
"""

import argparse
import multiprocessing
import resource
import sys
import weakref
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from models.catalog.memory import predict
from models.clip import cards
from models.clip.folding import fold_batch_norms, keep_clamped
from models.clip.precision import convert
from models.generators import complete, find
from models.networks import vqgan
from models.networks.footprint import decoder_bytes, guide_memory, vqgan_weights
from models.networks.shared_networks import Networks
from models.requests.generator import Drawing
from models.requests.network_names import NetworkNames
from models.requests.options import DrawingOptions
from models.requests.request import GenerationRequest, Prompt
from models.weights_io.card import WEIGHTS

MB = 1e6


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive at once, each storage once.

    Args:
        there: what is there before and stays, and is not counted.

    Attributes:
        now: bytes as of the last operation.
        peak: the most there were at once.
    """

    def __init__(self, *there: nn.Module | Tensor) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()
        for thing in there:
            for tensor in [thing] if isinstance(thing, Tensor) else _tensors_of(thing):
                self._note(tensor)
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, result)
        return result

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes()
        if place not in self._known:
            self._known.add(place)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, place, size)
        return tensor

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("guides", "vqgans", "drawings"), nargs="+")
    parser.add_argument("--device", default="cpu", help="of the drawings: cpu or cuda")
    chosen = parser.parse_args()
    parts = {"guides": guides, "vqgans": vqgans, "drawings": lambda: drawings(chosen.device)}
    for part in chosen.part or parts:
        parts[part]()
        print()


def guides() -> None:
    """What each CLIP takes: weights, and a view's share of a step, beside the card."""
    print("| CLIP | weights, MB | a view, fp32, MB | a view, bf16, MB | the card's, MB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in cards.available():
        card = cards.find_card(name)
        weights, view = measure_guide(card)
        half = measure_guide(card, torch.bfloat16)[1]
        _, told, _ = guide_memory(card, WEIGHTS)
        print(f"| {name} | {weights / MB:.1f} | {view / MB:.1f} | {half / MB:.1f} | {told / MB:.1f} |")


def measure_guide(card: cards.ClipCard, dtype: torch.dtype | None = None) -> tuple[int, int]:
    """Bytes of its weights in fp32, and of one view's share of a step's peak."""
    views = 8
    source, quick = card.place, False
    if card.scheme == "open_clip":
        source, _, tag = card.place.partition("/")
        quick = get_pretrained_cfg(source, tag).get("quick_gelu", False)
    else:
        source = f"local-dir:{card.folder(WEIGHTS)}"
    with torch.device("meta"):
        network = open_clip.create_model(source, load_weights=False, force_quick_gelu=quick, device="meta")
    network.eval().requires_grad_(False)
    size = network.visual.image_size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    fold_batch_norms(network.visual, torch.zeros(1, 3, *sides, device="meta"))
    keep_clamped(network.visual)
    weights = _bytes_of(network)
    if dtype is not None:
        convert(network, "bf16")
    with FakeTensorMode(allow_non_fake_inputs=True):
        network.to_empty(device="cpu")
        pictures = torch.zeros(views, 3, *sides, requires_grad=True)
        live = LiveBytes(network, pictures)
        with live, torch.autocast("cpu", dtype, enabled=dtype is not None):
            network.encode_image(pictures).float().sum().backward()
    return weights, live.peak // views


def vqgans() -> None:
    """What a VQGAN's decoder takes by the pixels, beside the formula."""
    print("| VQGAN | size | weights, MB (reckoned) | a pixel, kB | reckoned, kB | on the way in, kB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in vqgan.available():
        config = vqgan.read_card(name).config
        told = decoder_bytes(config, "fp32")
        for side in (256, 512, 1024):
            weights, peak, encoding = measure_vqgan(name, side)
            print(
                f"| {name} | {side}x{side} | {weights / MB:.0f} ({vqgan_weights(config) / MB:.0f}) "
                f"| {peak / side**2 / 1e3:.2f} | {told / 1e3:.2f} | {encoding / side**2 / 1e3:.2f} |"
            )


def measure_vqgan(name: str, side: int, *, low_memory: bool = False) -> tuple[int, int, int]:
    """Bytes of its weights, of a step's peak in the decoder, and of the peak when a picture is encoded."""
    from models.networks.vqgan.vqgan_model import Vqgan

    card = vqgan.read_card(name)
    with torch.device("meta"):
        network = Vqgan(card.config, card.kind, card.channels_per_group).to(memory_format=torch.channels_last)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = network.to_empty(device="cpu")
        grid = side // network.factor
        latents = torch.zeros(1, card.config.embed_dim, grid, grid, requires_grad=True)
        live = LiveBytes(network, latents)
        with live:
            network.decode(latents, low_memory=low_memory).sum().backward()
        picture = torch.zeros(1, 3, side, side)
        encoding = LiveBytes(network, picture)
        with encoding, torch.no_grad():
            network.encode(picture)
    return _bytes_of(network), live.peak, encoding.peak


CASES: tuple[tuple[str, int, dict[str, Any], int], ...] = (
    ("vqgan_clip", 96, {}, 0),
    ("vqgan_clip", 96, {"cutouts": 64}, 0),
    ("vqgan_clip", 192, {}, 0),
    ("vqgan_clip", 192, {"cutout_method": "original", "cutouts": 32}, 0),
    ("vqgan_clip", 192, {}, 2),
    ("vqgan_clip", 384, {"cutouts": 8}, 0),
    ("pixels", 256, {}, 0),
    ("dalle", 96, {}, 0),
    ("dalle", 96, {"candidates": 64}, 0),
)
"""Drawings with the demo models: generator, side in pixels, options, image prompts."""


def drawings(device: str) -> None:
    """What drawings take beside what is predicted, the usual way and frugally, each in its own process."""
    print("| drawing | way | tensors, MB | of the device, MB | predicted, MB | predicted / of the device |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for generator, side, options, prompts in CASES:
        said = " ".join([generator, f"{side}x{side}", *(f"{key}={value}" for key, value in options.items())])
        said += f", {prompts} image prompts" if prompts else ""
        for low_memory in (False, True):
            request = drawing(generator, side, options, prompts)
            told = predict(request, NetworkNames(device=device), low_memory=low_memory)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                tensors = process.submit(measure_drawing, request, device, low_memory).result()
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                names = NetworkNames(device=device)
                taken = process.submit(measure_process, request, names, low_memory).result()
            print(
                f"| {said} | {'low' if low_memory else 'usual'} | {tensors / MB:.0f} | {taken / MB:.0f} "
                f"| {told / MB:.0f} | {told / taken:.2f} |",
                flush=True,
            )


def drawing(generator: str, side: int, options: Mapping[str, Any], prompts: int = 0) -> GenerationRequest:
    """A square drawing with the demo models, of two steps where they can be chosen."""
    return complete(
        NetworkNames(),
        generator=generator,
        prompts=(Prompt(text="a red apple"), *(Prompt(image="picture") for _ in range(prompts))),
        width=side,
        height=side,
        steps=2 if issubclass(find(generator).Options, DrawingOptions) else None,
        seed=1,
        options=options,
    )


def measure_drawing(request: GenerationRequest, device: str, low_memory: bool) -> int:
    """Bytes of the tensors that are alive at once in a drawing, beside the weights."""
    networks = Networks(NetworkNames(device=device))
    generator = find(request.generator).load(networks)
    loaded = [networks.vqgan(), networks.prior(), networks.dalle()]
    loaded += [guide._model for guide in networks.guides()]
    live = LiveBytes(*(network for network in loaded if network is not None))
    with live:
        _draw(generator, request, low_memory)
    return live.peak


def measure_process(request: GenerationRequest, names: NetworkNames, low_memory: bool) -> int:
    """The most bytes that this process had of the device in a drawing; of a GPU without its context."""
    generator = find(request.generator).load(Networks(names))
    _draw(generator, request, low_memory)
    if names.device != "cpu":
        return torch.cuda.max_memory_reserved(names.device)
    # KiB, except on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _draw(generator: Any, request: GenerationRequest, low_memory: bool) -> None:
    pictures = {"picture": Image.new("RGB", (64, 64), "white")}
    for step in generator(Drawing(request, seed=1, images=pictures, low_memory=low_memory)):
        step.render()


def _bytes_of(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in _tensors_of(network))


def _tensors_of(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


if __name__ == "__main__":
    main()
