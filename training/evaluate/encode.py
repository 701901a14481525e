"""Images and texts to embeddings, and images through a VQGAN and back: what all measures are made of."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.clip import ClipEncoder, Embeddings
from models.clip.zero_shot import ensemble, fill_templates
from models.networks import vqgan as vqgans
from models.networks.vqgan.vqgan_model import Vqgan
from models.weights_io import load_tensors
from training.evaluate.measures import Row, perplexity, psnr

_BATCH = 32  # images
Item = TypeVar("Item")


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
