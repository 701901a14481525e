"""Targets: what CLIP is to find in a picture, made of a request's prompts before the first step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from models.clip import TextTooLong
from models.generators import GenerationError
from models.prompts import rivals
from models.requests import Prompt


class Clip(Protocol):
    """The side of a CLIP that guidance looks at."""

    name: str
    image_size: int  # R
    dimension: int  # D

    def encode_image(self, images: Tensor) -> Tensor:
        """(K, 3, R, R) in [0, 1] -> (K, D) of unit length, differentiable"""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (P, D) of unit length"""


@dataclass(frozen=True)
class Targets:
    """What one CLIP is to find in the picture: what is embedded once first, then the image prompts.

    All that changes from step to step is here for each of the S steps, so that the loop copies nothing to the
    device.

    Attributes:
        vectors: unit embeddings of texts, targets, vectors and noise (V, D).
        pictures: of the image prompts, I of (1, 3, H, W) in [0, 1]; cut at each step as the drawing is.
        wholes: unit embeddings of the same, whole (I, D).
        weights: of each step (S, V + I); a negative one pushes away.
        stops: (V + I,) signed distances below which a prompt no longer pulls.
        pulling: for each step, which of the pictures have a weight other than 0.
        shares: of each prompt in the score (S, V + I), 0 or more; they add up to 1, or 0 where none pulls.
            Noise has none.
        rivals: for texts that pull, the column of their weight, and themselves with what they are not
            (1 + R, D).
    """

    vectors: Tensor
    pictures: tuple[Tensor, ...]
    wholes: Tensor
    weights: Tensor
    stops: Tensor
    pulling: tuple[tuple[int, ...], ...]
    shares: Tensor
    rivals: tuple[tuple[int, Tensor], ...]


def targets_of(
    clip: Clip,
    prompts: Sequence[Prompt],
    pictures: Mapping[str, Image.Image],
    *,
    steps: int,
    size: tuple[int, int],
    device: torch.device,
    templates: Sequence[str] = ("{prompt}",),
    contrasted: bool = False,
) -> Targets:
    """What a CLIP is to find in each of the steps of a drawing.

    Args:
        prompts: vectors among them are embeddings of this CLIP.
        pictures: RGB, by the names that the prompts use.
        size: (H, W) of the drawing, to which image prompts are scaled.
        templates: texts with a `{prompt}`; a text's embedding is the mean of it in each of them.
        contrasted: embed rivals, too.

    Raises:
        GenerationError: a text is longer than the CLIP reads, a vector has another dimension, or a picture is
            not there.
    """
    embedded = [prompt for prompt in prompts if prompt.image is None]
    cut = [prompt for prompt in prompts if prompt.image is not None]
    ordered = [*embedded, *cut]
    originals = [find_picture(pictures, prompt.image or "") for prompt in cut]
    schedule = [[prompt.weight_at(index / steps) for prompt in ordered] for index in range(steps)]
    weights = torch.tensor(schedule)
    scored = weights.clamp(min=0) * torch.tensor([float(prompt.noise is None) for prompt in ordered])
    none = torch.empty(0, clip.dimension, device=device)
    with torch.no_grad():
        vectors = [_embed_prompt(clip, prompt, pictures, templates, device) for prompt in embedded]
        wholes = [_embed_whole(clip, original, device) for original in originals]
        told_apart = [
            (column, _embed_rivals(clip, prompt.text, templates).to(device))
            for column, prompt in enumerate(embedded)
            if contrasted and prompt.text is not None and prompt.weight > 0
        ]
    return Targets(
        vectors=torch.cat([none, *vectors]),
        pictures=tuple(to_tensor(original, size, device) for original in originals),
        wholes=torch.cat([none, *wholes]),
        weights=weights.to(device),
        stops=torch.tensor([-torch.inf if p.stop is None else p.stop for p in ordered], device=device),
        pulling=tuple(
            tuple(place for place in range(len(cut)) if row[len(embedded) + place]) for row in schedule
        ),
        shares=(scored / scored.sum(1, keepdim=True).clamp(min=1e-8)).to(device),
        rivals=tuple(told_apart),
    )


def embed(clip: Clip, text: str, templates: Sequence[str]) -> Tensor:
    """A text's mean embedding over templates with `{prompt}`, of unit length: (1, D)

    Raises:
        GenerationError: it is longer than the CLIP reads.
    """
    try:
        with torch.no_grad():
            rows = clip.encode_text([template.replace("{prompt}", text) for template in templates])
    except TextTooLong as error:
        raise GenerationError(f"the prompt is too long for {clip.name}: {error}") from error
    return F.normalize(rows.mean(0, keepdim=True), dim=-1)


def find_picture(pictures: Mapping[str, Image.Image], name: str) -> Image.Image:
    """One of a request's pictures.

    Raises:
        GenerationError: it is not there.
    """
    try:
        return pictures[name]
    except KeyError:
        raise GenerationError(f"the picture {name!r} is not there") from None


def to_tensor(picture: Image.Image, size: tuple[int, int], device: torch.device) -> Tensor:
    """An RGB picture scaled to (H, W): (1, 3, H, W) in [0, 1]"""
    scaled = picture.convert("RGB").resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1)[None].to(device).float().div(255)


def _embed_prompt(
    clip: Clip,
    prompt: Prompt,
    pictures: Mapping[str, Image.Image],
    templates: Sequence[str],
    device: torch.device,
) -> Tensor:
    """A prompt that is no image prompt: (1, D)"""
    if prompt.text is not None:
        return embed(clip, prompt.text, templates).to(device)
    if prompt.target is not None:
        return _embed_whole(clip, find_picture(pictures, prompt.target), device)
    if prompt.vector is not None:
        return _direction(clip, prompt.vector).to(device)
    # each prompt has a generator of its own: noise is the same whatever else is drawn
    rng = torch.Generator().manual_seed(prompt.noise or 0)
    return F.normalize(torch.randn(1, clip.dimension, generator=rng), dim=-1).to(device)


def _embed_rivals(clip: Clip, text: str, templates: Sequence[str]) -> Tensor:
    """A text, then what it is not: (1 + R, D)"""
    return torch.cat([embed(clip, other, templates) for other in (text, *rivals(text))])


def _embed_whole(clip: Clip, picture: Image.Image, device: torch.device) -> Tensor:
    side = clip.image_size
    return clip.encode_image(to_tensor(picture, (side, side), device)).to(device)


def _direction(clip: Clip, numbers: Sequence[float]) -> Tensor:
    if len(numbers) != clip.dimension:
        raise GenerationError(
            f"a vector prompt has {len(numbers)} numbers; embeddings of {clip.name} have {clip.dimension}"
        )
    vector = torch.tensor([numbers], dtype=torch.float64)
    largest = vector.abs().max()
    if not largest:
        raise GenerationError("a vector prompt of zeros has no direction")
    return F.normalize(vector / largest, dim=-1).float()  # squares of very large numbers are not finite
