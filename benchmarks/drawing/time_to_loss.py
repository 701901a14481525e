"""How many steps and seconds does each preset take to a fixed loss, and does a CLIP that did not guide agree?

`OMP_NUM_THREADS=1 python -m benchmarks.drawing.time_to_loss` draws every table, `… quality compat` these.

Presets differ in their losses, so none of these is the measure. Every few steps the picture itself, whole and
as it would be saved, is compared with the prompt: by the CLIP that guides (half the squared angle, as in its
loss) and by one that does not. That takes no part in the seconds.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.clip.encoder import ClipNetwork
from models.generators import complete, find
from models.networks.shared_networks import Networks
from models.optimize.clip_loss import spherical_distance
from models.optimize.prompt_targets import to_tensor
from models.requests.generator import Drawing
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.requests.request import GenerationRequest, Presets

PROMPTS = ("a red heart", "a green tree")
LOOK_EVERY = 5  # steps
LOSS = 0.55
SMALL = {"width": 96, "height": 96, "steps": 100, "options": {"cutouts": 16}}
"""What the presets of programs are cut down to: they are made for pictures of 300 to 500 pixels."""


@dataclass(frozen=True)
class Curve:
    """What was seen of one drawing, every few steps.

    Attributes:
        steps: of each look.
        seconds: that the steps up to it took.
        losses: half the squared angle between picture and prompt, by the CLIP that guides.
        judged: cosine of the two by a CLIP that does not.
    """

    steps: list[int]
    seconds: list[float]
    losses: list[float]
    judged: list[float]

    def place_of(self, loss: float) -> int | None:
        """The first look at which the loss was no higher than this."""
        return next((place for place, value in enumerate(self.losses) if value <= loss), None)


def rows_of(table: str) -> dict[str, dict[str, Any]]:
    """What a table compares: requests by the names of its rows."""

    def options(**values: Any) -> dict[str, Any]:
        return {"options": values}

    match table:
        case "quality":
            return {name: {"quality": name} for name in ("normal", "draft", "better", "best")}
        case "compat":
            own = {"as the card says": {}, "the same, random codes": options(start="random")}
            return own | {name: {"compat": name, **SMALL} for name in ("crowson", "nerdyrodent", "pixray")}
        case "cutout methods":
            methods = ("views", "original", "updated", "pooling", "pixray")
            return {name: options(cutout_method=name) for name in methods}
        case "cutouts":
            return {str(count): options(cutouts=count) for count in (4, 8, 16, 32)}
        case "learning rates":
            return {str(rate): options(learning_rate=rate) for rate in (0.07, 0.14, 0.27, 0.54)}
        case "schedules":
            return {
                "held for 0.45, then to a tenth": {},
                "from the first step to a tenth": options(learning_rate_hold=0),
                "constant": options(learning_rate_hold=1),
                "a tenth after 0.75": options(learning_rate_hold=1, learning_rate_drops=[0.75]),
                "half the size for 0.5": options(coarse=0.5),
            }
        case "accelerations":
            return {
                "none": {},
                "coarse 0.5": options(coarse=0.5),
                "cutouts_end 0.25": options(cutouts_end=0.25),
                "stop_after 15": options(stop_after=15),
                "cutouts_end 0.25, coarse 0.3": options(cutouts_end=0.25, coarse=0.3),
            }
        case "optimizers":
            return {
                "adam, beta2 0.99": {},
                "adam, beta2 0.999": options(beta2=0.999),
                "adamw, decay 0.1": options(optimizer="adamw", weight_decay=0.1),
                "sgd, rate 60": options(optimizer="sgd", learning_rate=60),
            }
        case "starts":
            return {
                "prior": {},
                "dalle": options(start="dalle"),
                "dalle, 30 steps": options(start="dalle") | {"steps": 30},
            }
        case _:  # generators
            return {name: {"generator": name} for name in ("vqgan_clip", "pixels", "fft", "lines")}


TABLES = (
    *("quality", "compat", "cutout methods", "cutouts", "learning rates", "schedules", "optimizers"),
    *("accelerations", "starts", "generators"),
)


def main() -> None:
    """Draw, print a table after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", default=TABLES, metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--loss", type=float, default=LOSS, help="of the whole picture, to be reached")
    chosen = parser.parse_args()
    networks = Networks(NetworkNames(held_out="demo-photo"))
    known: dict[str, Curve] = {}  # the defaults are a row of every table, and drawn once
    for table in chosen.tables:
        print(f"\n{table}\n\n| {table} | reached | steps | seconds | s per step | last loss | judge |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for name, fields in rows_of(table).items():
            curves = []
            for prompt, seed in itertools.product(chosen.prompts, chosen.seeds):
                request = request_of(networks.names, prompt, seed, fields)
                key = request.model_dump_json()
                known[key] = known.get(key) or draw(networks, request, prompt)
                curves.append(known[key])
            print(f"| {name} | {row_of(curves, chosen.loss)} |", flush=True)


def draw(networks: Networks, request: GenerationRequest, prompt: str) -> Curve:
    """Draw a prompt, and look at it as it becomes."""
    generator = find(request.generator).load(networks)
    held_out = networks.held_out()
    assert held_out is not None
    # on a CPU the time of this process alone: other processes then lengthen nothing
    clock = time.process_time if networks.device.type == "cpu" else time.perf_counter
    seconds, started = 0.0, clock()
    looks: list[tuple[int, float, float, float]] = []
    for step in generator(Drawing(request, seed=request.seed)):
        if step.index % LOOK_EVERY and not step.is_last:
            continue
        pixels = step.render()  # waits for the device
        seconds += clock() - started
        own, others = (distance(clip, pixels, prompt) for clip in (networks.guides()[0], held_out))
        looks.append((step.index, seconds, own, others))
        started = clock()
    steps, times, losses, distances = (list(values) for values in zip(*looks, strict=True))
    return Curve(steps, times, losses, [math.cos(math.sqrt(2 * value)) for value in distances])


def request_of(names: NetworkNames, prompt: str, seed: int, fields: Mapping[str, Any]) -> GenerationRequest:
    """The request that a row and a prompt make."""
    said = dict(fields)
    presets = Presets(quality=said.pop("quality", "normal"), compat=said.pop("compat", None))
    generator = said.pop("generator", "vqgan_clip")
    return complete(names, generator=generator, prompts=parse(prompt), presets=presets, seed=seed, **said)


def distance(clip: ClipNetwork, pixels: NDArray[np.uint8], text: str) -> float:
    """Half the squared angle between a picture (H, W, 3) and a text."""
    side = clip.image_size
    with torch.no_grad():
        picture = to_tensor(Image.fromarray(pixels), (side, side), clip.mean.device)
        return float(spherical_distance(clip.encode_image(picture), clip.encode_text([text])))


def row_of(curves: list[Curve], loss: float) -> str:
    """What drawings have in common: medians of steps and seconds if most have reached the loss, and means."""
    places = [(curve, curve.place_of(loss)) for curve in curves]
    reached = [(curve, place) for curve, place in places if place is not None]
    steps = seconds = "–"
    if 2 * len(reached) > len(curves):
        far = float("inf")
        steps = f"{statistics.median(far if p is None else c.steps[p] for c, p in places):.0f}"
        seconds = f"{statistics.median(far if p is None else c.seconds[p] for c, p in places):.1f}"
    each = statistics.mean(curve.seconds[-1] / curve.steps[-1] for curve in curves)
    last = statistics.mean(curve.losses[-1] for curve in curves)
    judged = statistics.mean(curve.judged[-1] for curve in curves)
    return f"{len(reached)} of {len(curves)} | {steps} | {seconds} | {each:.2f} | {last:.3f} | {judged:.3f}"


if __name__ == "__main__":
    main()
