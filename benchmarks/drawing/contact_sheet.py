"""Can a person see what the demo models draw? Draws eight prompts with the defaults, each over its name.

`python -m benchmarks.drawing.contact_sheet docs/images/contact-sheet.png`

`--many --each FOLDER` draws 24, and keeps each for `python -m training.evaluate r-precision FOLDER`.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.generators import complete, find
from models.networks.shared_networks import Networks
from models.requests.generator import Drawing
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse

PROMPTS = (
    *("a red heart", "a slice of pizza", "a yellow smiling face", "a green tree"),
    *("a blue car", "a red apple", "a house", "a purple flower"),
)
MANY = (
    *PROMPTS,
    *("a cat", "a dog", "a fish", "a bird", "a yellow star", "a blue butterfly", "a mushroom", "a cactus"),
    *(
        "a birthday cake",
        "a cup of coffee",
        "an orange",
        "a rocket",
        "a sailboat",
        "a bicycle",
        "an umbrella",
    ),
    "a snowman",
)
"""The fixed sheet of 24, of which R-precision is told."""
COLUMNS = 4
CELL = 192  # pixels
LABEL = 24


def main() -> None:
    """Draw, print a table, save the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("--generator", default="vqgan_clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, help="pixels along each side; default: the generator's own")
    parser.add_argument("--steps", type=int, help="default: the generator's own")
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--many", action="store_const", dest="prompts", const=MANY, help="24 prompts")
    parser.add_argument("--each", type=Path, help="a folder: each picture is kept there, named by its prompt")
    parser.add_argument(
        "--option", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="of the generator"
    )
    chosen = parser.parse_args()
    names = NetworkNames()
    generator = find(chosen.generator).load(Networks(names))
    drawn = {}
    print(f"{'prompt':<24} {'size':>9} {'steps':>5} {'seconds':>7} {'loss':>6} {'score':>6}")
    for prompt in chosen.prompts:
        request = complete(
            names,
            generator=chosen.generator,
            prompts=parse(prompt),
            width=chosen.size,
            height=chosen.size,
            steps=chosen.steps,
            seed=chosen.seed,
            options=dict(chosen.option),
        )
        started = time.perf_counter()
        *_, last = generator(Drawing(request, seed=request.seed))
        drawn[prompt] = last.render()
        if chosen.each:
            chosen.each.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn[prompt]).save(chosen.each / f"{prompt}.png")
        seconds = time.perf_counter() - started
        size = f"{request.width}x{request.height}"
        loss, score = last.loss() if last.loss else np.nan, last.score() if last.score else np.nan
        print(
            f"{prompt:<24} {size:>9} {last.total:>5} {seconds:>7.1f} {loss:>6.3f} {score:>6.3f}", flush=True
        )
        sheet_of(drawn).save(chosen.target)


def sheet_of(pictures: dict[str, NDArray[np.uint8]]) -> Image.Image:
    """Pictures (H, W, 3) in rows of four, each over its name."""
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL, rows * (CELL + LABEL)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for place, (name, pixels) in enumerate(pictures.items()):
        left, top = place % COLUMNS * CELL, place // COLUMNS * (CELL + LABEL)
        picture = Image.fromarray(pixels)
        scale = (CELL - 8) / max(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
        )
        sheet.paste(picture, (left + 4, top + 4))
        pen.text((left + CELL / 2, top + CELL + 2), name, "black", font, anchor="ma")
    return sheet


if __name__ == "__main__":
    main()
