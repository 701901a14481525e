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
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.progress import track

from models import clip as clips
from models.clip import ClipEncoder, Embeddings
from models.clip.cards import find_card
from models.clip.encoder import pick_device
from models.clip.zero_shot import ensemble, fill_templates, similarity
from models.networks import vqgan as vqgans
from models.networks.vqgan.vqgan_model import Vqgan
from models.weights_io import load_tensors
from models.weights_io.card import WEIGHTS
from training import held_out
from training.measures import Row, accuracy, perplexity, psnr, recall, table

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}
_BATCH = 32  # pictures
Item = TypeVar("Item")


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


def reconstruction(vqgan: Vqgan, images: Iterable[Image.Image], size: int) -> list[Row]:
    """What is lost on the way to codes and back, of pictures' middle squares, and which codes are used."""
    real, made, codes = [], [], []
    for batch in _batches(_square(image, size) for image in images):
        pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            found = vqgan.codes(pixels.to(vqgan.codebook.device))
            decoded = vqgan.decode(vqgan.lookup(found)).clamp(0, 1)
            codes.append(found.cpu().numpy())
        real += batch
        made += list(decoded.permute(0, 2, 3, 1).cpu().numpy())
    used = np.unique(np.concatenate(codes)).size
    return [
        ("pictures", str(len(real))),
        (f"PSNR at {size} pixels", f"{psnr(np.stack(made), np.stack(real)):.2f} dB"),
        ("mean error", f"{np.abs(np.stack(made) - np.stack(real)).mean():.4f}"),
        ("codes used", f"{used} of {len(vqgan.codebook)}"),
        ("perplexity of the codes", f"{perplexity(np.concatenate(codes)):.1f}"),
    ]


def load_vqgan(name: str, weights: Path, tensors: Path | None = None, codes: int | None = None) -> Vqgan:
    """A card's VQGAN.

    Args:
        tensors: another file than the card's; it may have another number of codes.
        codes: so many, the first, in place of all.
    """
    card = vqgans.read_card(name)
    if tensors is None and codes is None:
        return vqgans.load(name, weights)
    found = vqgans.load(name, weights).state_dict() if tensors is None else load_tensors(tensors)
    table = next(key for key in found if key.startswith("quantize.embed"))
    found[table] = found[table][:codes]
    config = card.config.model_copy(update={"n_embed": len(found[table])})
    vqgan = Vqgan(config, card.kind, card.channels_per_group)
    vqgan.read(found)
    return vqgan


def embeddings(clip: ClipEncoder, images: Iterable[Image.Image]) -> Embeddings:
    """(N, D), preprocessed exactly as the model was trained."""
    rows = [
        clip.encode_images(np.stack(batch)) for batch in _batches(clip.preprocess(image) for image in images)
    ]
    return np.concatenate(rows)


def texts(clip: ClipEncoder, labels: Sequence[str], templates: Sequence[str]) -> Embeddings:
    """(L, D): each label's mean over the templates."""
    filled = fill_templates(labels, templates)
    rows = [clip.encode_texts(filled[start : start + 256]) for start in range(0, len(filled), 256)]
    return ensemble(np.concatenate(rows), len(templates))


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


def _square(image: Image.Image, size: int) -> NDArray[np.float32]:
    """The middle square: (size, size, 3) in [0, 1]"""
    side = max(size, min(image.size))
    pixels = np.asarray(ImageOps.fit(image, (side, side)), np.float32) / np.float32(255)
    square = F.interpolate(torch.from_numpy(pixels).permute(2, 0, 1)[None], size=(size, size), mode="area")
    return square[0].permute(1, 2, 0).numpy()


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


if __name__ == "__main__":
    main()
