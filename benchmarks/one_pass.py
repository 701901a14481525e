"""Sampled in one pass, or drawn step by step: which pictures does a CLIP that took no part recognize?

`python -m benchmarks.one_pass docs/images/one-pass.png` draws each prompt in three ways, prints the seconds
and how often that CLIP finds the prompt among all of them (R-precision), and saves a sheet, a way a row.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.generators import complete, find
from models.networks.shared_networks import Networks
from models.optimize.prompt_targets import embed, to_tensor
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse

PROMPTS = (
    *("a red heart", "a slice of pizza", "a yellow smiling face", "a green tree"),
    *("a blue car", "a red apple", "a house", "a purple flower", "a cat", "a rocket"),
)
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "dalle": ("dalle", {}),
    "vqgan_clip from prior": ("vqgan_clip", {"start": "prior"}),
    "vqgan_clip from dalle": ("vqgan_clip", {"start": "dalle"}),
}
CELL, LABEL = 112, 20  # pixels


def main() -> None:
    """Draw, print a table, save the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", default="demo-photo", help="card of the CLIP that takes no part")
    parser.add_argument("--steps", type=int, help="of vqgan_clip; default: its own")
    chosen = parser.parse_args()
    names = NetworkNames(judge=chosen.judge)
    networks = Networks(names)
    rows = {}
    print(
        f"{'way':<24} {'s a picture':>11} {'guides':>7} {'judge':>6} {'guides find':>11} {'judge finds':>11}"
    )
    for way in chosen.ways:
        generator, options = WAYS[way]
        loaded = find(generator).load(networks)
        pictures, seconds = [], []
        for prompt in chosen.prompts:
            request = complete(
                names,
                generator=generator,
                prompts=parse(prompt),
                seed=chosen.seed,
                options=options,
                steps=chosen.steps if generator == "vqgan_clip" else None,
            )
            started = time.perf_counter()
            *_, last = loaded.generate(request, seed=request.seed, pictures={})
            pictures.append(last.render())
            seconds.append(time.perf_counter() - started)
        rows[way] = pictures
        cosines = [
            likeness(networks, name, pictures, chosen.prompts) for name in (names.clips[0], chosen.judge)
        ]
        found = [(table.argmax(1) == torch.arange(len(table))).sum().item() for table in cosines]
        own = [table.diagonal().mean().item() for table in cosines]
        of = f"/{len(chosen.prompts)}"
        print(
            f"{way:<24} {statistics.median(seconds):>11.1f} {own[0]:>7.3f} {own[1]:>6.3f} "
            f"{found[0]:>9}{of} {found[1]:>9}{of}",
            flush=True,
        )
        sheet_of(rows, chosen.prompts).save(chosen.target)


def likeness(
    networks: Networks, clip: str, pictures: list[NDArray[np.uint8]], prompts: tuple[str, ...]
) -> torch.Tensor:
    """Cosines of pictures and prompts: (N, P)"""
    network = networks.clip(clip)
    side = (network.image_size, network.image_size)
    images = torch.cat([to_tensor(Image.fromarray(picture), side, networks.device) for picture in pictures])
    texts = torch.cat([embed(network, prompt, ("{prompt}",)) for prompt in prompts])
    with torch.no_grad():
        return (network.encode_image(images) @ texts.T).cpu()


def sheet_of(rows: dict[str, list[NDArray[np.uint8]]], prompts: tuple[str, ...]) -> Image.Image:
    """A row a way, under its name, and a column a prompt."""
    sheet = Image.new("RGB", (len(prompts) * CELL, LABEL + len(rows) * (CELL + LABEL)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, prompt in enumerate(prompts):
        pen.text((column * CELL + CELL / 2, 4), prompt, "black", font, anchor="ma")
    for place, (way, pictures) in enumerate(rows.items()):
        top = LABEL + place * (CELL + LABEL)
        pen.text((4, top + 2), way, "gray", font)
        for column, pixels in enumerate(pictures):
            picture = Image.fromarray(pixels).resize((CELL - 8, CELL - 8), Image.Resampling.LANCZOS)
            sheet.paste(picture, (column * CELL + 4, top + LABEL))
    return sheet


if __name__ == "__main__":
    main()
