"""Do the architectures of real models serve and draw on a CPU, within the memory that is predicted?

`python -m benchmarks.clip.real_models` gives them random weights, which take the memory of trained ones.
A CLIP is
served by `python -m app` and asked for labels and embeddings; a VQGAN draws, guided by demo-icons.
"""

import argparse
import io
import json
import multiprocessing
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx
import open_clip
import skimage.data
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from benchmarks.drawing.memory import measure_process
from benchmarks.service.processes import Server, api
from models.catalog.clip_files import config_of
from models.catalog.memory import RUNTIME, predict, serving_memory
from models.catalog.pull import pull
from models.clip.cards import CLIP_FILE, CONFIG, find_card
from models.generators import complete
from models.networks import vqgan
from models.requests.network_names import NetworkNames
from models.requests.request import Prompt

MB = 1e6


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", nargs="*", default=["RN50", "ViT-B-16-SigLIP", "ViT-L-14"])
    parser.add_argument("--vqgans", nargs="*", default=["imagenet-f16-16384", "openimages-f8-8192"])
    parser.add_argument("--steps", type=int, default=2, help="of a drawing")
    chosen = parser.parse_args()
    if chosen.clips:
        print("| CLIP, fp32 | CPU ms a picture | predicted, MB | its own, most | with files, then | most |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in chosen.clips:
        with tempfile.TemporaryDirectory() as folder:
            serve(name, Path(folder))
    if chosen.vqgans:
        print("\n| VQGAN, fp32 | side | CPU s in all | predicted, MB | its own, most | with files, most |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in chosen.vqgans:
        with tempfile.TemporaryDirectory() as folder:
            draw(name, Path(folder), chosen.steps)


def serve(name: str, folder: Path) -> None:
    """A row of what the API takes that serves the CLIP."""
    weights = folder / "weights"
    save_clip(name, weights)
    told = RUNTIME + serving_memory(find_card(name), weights, "fp32")
    settings = {"CLIPCANVAS_WEIGHTS": str(weights), "CLIPCANVAS_CLIP_DTYPE": "fp32"}
    with OwnMemory() as own, api(folder, [name], settings) as server:
        jpeg = io.BytesIO()
        Image.fromarray(skimage.data.astronaut()).save(jpeg, "JPEG")
        pictures = [("image", ("a.jpg", jpeg.getvalue(), "image/jpeg"))] * 16
        answer = ask(server, "/v1/classify", pictures[:1], labels=["a cat", "a rocket"])
        assert len(answer["data"][0]["labels"]) == 2
        started_s = server.cpu_s()
        answer = ask(server, "/v1/embeddings", pictures)
        took_s = server.cpu_s() - started_s
        assert len(answer["data"]) == 16
        most, then = (memory(server, field) for field in ("VmHWM", "VmRSS"))
    print(
        f"| {name} | {1000 * took_s / 16:.0f} | {told / MB:.0f} | {own.most / MB:.0f} | {then / MB:.0f} "
        f"| {most / MB:.0f} |",
        flush=True,
    )


def ask(server: Server, path: str, pictures: list[Any], **fields: list[str]) -> Any:
    """What the API answers to a form."""
    url = f"http://127.0.0.1:{server.port}{path}"
    return httpx.post(url, files=pictures, data=fields, timeout=300).raise_for_status().json()


def memory(server: Server, field: str) -> int:
    """Bytes of a process: `VmHWM`, the most so far, or `VmRSS`, now."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def draw(name: str, weights: Path, steps: int) -> None:
    """A row of what a drawing takes, with the defaults of the VQGAN's card."""
    from models.networks.vqgan.vqgan_model import Vqgan

    card = vqgan.read_card(name)
    target = weights / card.weights.file
    target.parent.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(dict(Vqgan(card.config, card.kind).state_dict()), target)
    pull("demo-icons", weights, lambda what, done, total: None)  # it comes with the project: a copy
    names = NetworkNames(vqgan=name, weights=weights, device="cpu")
    request = complete(
        names, generator="vqgan_clip", prompts=(Prompt(text="a red apple"),), steps=steps, seed=1
    )
    told = predict(request, names, low_memory=False)
    with OwnMemory() as own, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        most, took_s = process.submit(_drawn, request, names).result()
    print(
        f"| {name} | {request.width} | {took_s:.0f} | {told / MB:.0f} | {own.most / MB:.0f} "
        f"| {most / MB:.0f} |",
        flush=True,
    )


class OwnMemory:
    """Watches what child processes have of their own: without pages of files, which the system takes back.

    Attributes:
        most: bytes of the one that had most.
    """

    def __init__(self) -> None:
        self.most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        children = Path(f"/proc/self/task/{threading.main_thread().native_id}/children")
        while not self._ended.wait(0.02):
            for child in children.read_text().split():
                with suppress(OSError, IndexError):  # it ended meanwhile
                    status = Path(f"/proc/{child}/status").read_text()
                    self.most = max(self.most, int(status.split("RssAnon:")[1].split()[0]) * 1024)


def _drawn(request: Any, names: NetworkNames) -> tuple[int, float]:
    started_s = time.process_time()
    return measure_process(request, names, False), time.process_time() - started_s


def save_clip(name: str, weights: Path) -> None:
    """The CLIP of a card with random weights, as `clipcanvas models pull` would put it there."""
    card = find_card(name)
    folder, config = card.folder(weights), config_of(card)
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(config))
    if "hf_tokenizer_name" in config["model_cfg"]["text_cfg"]:
        save_tokenizer(folder)
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}")
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / CLIP_FILE)


def save_tokenizer(folder: Path) -> None:
    """One of a few words, in place of one that would have to be fetched."""
    words = ["<pad>", "</s>", "<unk>", "a", "cat", "rocket"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
