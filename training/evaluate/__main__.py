"""Measure a CLIP or a VQGAN of any card, on any folder of pictures.

    python -m training.evaluate zero-shot FOLDER --clip ViT-B-32
    python -m training.evaluate retrieval FOLDER --clip demo-icons
    python -m training.evaluate reconstruction FOLDER --vqgan demo --size 96
    python -m training.evaluate r-precision FOLDER --clip demo-photo
    python -m training.evaluate demo data/pictures --clip demo-icons

For `zero-shot` and `retrieval` the folder has a folder of pictures for each label, for `r-precision` drawings
in files named after their prompts; `demo` takes the held-out sets of what `training.pictures` filled.

R-precision (Xu et al. 2018, arXiv:1711.10485): how often a CLIP, not the one that guided, finds the prompt of
a drawing among all prompts.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from rich.progress import track

from models import clip as clips
from models.clip import ClipEncoder
from models.clip.cards import find_card
from models.clip.encoder import pick_device
from models.clip.zero_shot import similarity
from models.weights_io.card import WEIGHTS
from training.evaluate import held_out
from training.evaluate.encode import embeddings, load_vqgan, reconstruction, texts
from training.evaluate.measures import Row, accuracy, recall, table

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}


class NothingToMeasure(ValueError):
    """A folder has not the pictures that a measure needs."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "measure", choices=("zero-shot", "retrieval", "reconstruction", "r-precision", "demo")
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--clip", default="demo-photo", help="its card, or open_clip:…, hf-hub:…, local-dir:…"
    )
    parser.add_argument("--templates", nargs="+", help="such as 'a photo of a {label}'; default: the card's")
    parser.add_argument("--vqgan", default="demo", help="its card")
    parser.add_argument("--tensors", type=Path, help="a file in place of that of the VQGAN's card")
    parser.add_argument(
        "--size", type=int, default=96, help="pixels of reconstructions; default: %(default)s"
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the cards' weights")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    if chosen.measure == "reconstruction":
        vqgan = load_vqgan(chosen.vqgan, chosen.weights, chosen.tensors).to(pick_device(chosen.device))
        print(table(reconstruction(vqgan, opened(files(chosen.folder)), chosen.size)))
        return
    clip = clips.load(chosen.clip, chosen.weights, chosen.device)
    templates = chosen.templates or find_card(chosen.clip, chosen.weights).templates
    match chosen.measure:
        case "zero-shot":
            print(table(zero_shot(clip, *labelled(chosen.folder), templates)))
        case "retrieval":
            print(table(retrieval(clip, *labelled(chosen.folder), templates)))
        case "r-precision":
            print(table(r_precision(clip, files(chosen.folder), templates)))
        case "demo":
            vqgan = load_vqgan(chosen.vqgan, chosen.weights, chosen.tensors).to(pick_device(chosen.device))
            print(table([*held_out.of_clip(clip, chosen.folder), *held_out.of_vqgan(vqgan, chosen.folder)]))


def zero_shot(
    clip: ClipEncoder,
    pictures: Sequence[Path],
    labels: Sequence[str],
    right: Sequence[int],
    templates: Sequence[str],
) -> list[Row]:
    """How often the right label of a picture is the likeliest, and among the five likeliest."""
    scores = similarity(embeddings(clip, opened(pictures)), texts(clip, labels, templates))
    return _counts(pictures, labels) + [
        (f"top-{best}", f"{accuracy(scores, np.array(right), best):.1%}") for best in (1, 5)
    ]


def retrieval(
    clip: ClipEncoder,
    pictures: Sequence[Path],
    labels: Sequence[str],
    right: Sequence[int],
    templates: Sequence[str],
) -> list[Row]:
    """How often a picture of a label is the label's first of all pictures, and among its first five."""
    scores = similarity(texts(clip, labels, templates), embeddings(clip, opened(pictures)))
    return _counts(pictures, labels) + [
        (f"text to picture, recall@{best}", f"{recall(scores, np.array(right), best):.1%}") for best in (1, 5)
    ]


def r_precision(clip: ClipEncoder, pictures: Sequence[Path], templates: Sequence[str]) -> list[Row]:
    """How often the prompt that a drawing's file is named after is the likeliest of all files' prompts."""
    prompts = [path.stem for path in pictures]
    scores = similarity(embeddings(clip, opened(pictures)), texts(clip, prompts, templates))
    own = np.arange(len(prompts))
    ranks = (scores > scores[own, own][:, None]).sum(1)
    rows = [(prompt, f"{rank + 1}.") for prompt, rank in zip(prompts, ranks, strict=True)]
    return [*rows, *((f"R-precision@{best}", f"{(ranks < best).mean():.1%}") for best in (1, 5))]


def files(folder: Path) -> list[Path]:
    """The pictures under a folder, in order.

    Raises:
        NothingToMeasure: there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise NothingToMeasure(
            f"no picture under {folder}; expected files ending {', '.join(sorted(_SUFFIXES))}"
        )
    return found


def labelled(folder: Path) -> tuple[list[Path], list[str], list[int]]:
    """Pictures, labels, and of each picture the place of its label: the name of its folder, `_` for a space.

    Raises:
        NothingToMeasure: there are no folders of pictures.
    """
    found = files(folder)
    if any(path.parent == folder for path in found):
        raise NothingToMeasure(f"{folder} has pictures of no label; expected a folder for each label")
    places = [path.relative_to(folder).parts[0] for path in found]
    names = sorted(set(places))
    return found, [name.replace("_", " ") for name in names], [names.index(place) for place in places]


def opened(paths: Sequence[Path]) -> Iterator[Image.Image]:
    """Pictures of files, turned as their EXIF says, what is transparent on white."""
    for path in track(paths, "pictures", transient=True):
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image).convert("RGBA")
        yield Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")


def _counts(pictures: Sequence[Path], labels: Sequence[str]) -> list[Row]:
    return [("pictures", str(len(pictures))), ("labels", str(len(labels)))]


if __name__ == "__main__":
    main()
