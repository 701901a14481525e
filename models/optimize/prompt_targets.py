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
from models.requests.generator import GenerationError
from models.requests.prompts import rivals
from models.requests.request import Prompt


class Clip(Protocol):
    """The side of a CLIP that guidance looks at."""

    name: str
    image_size: int  # R
    dimension: int  # D

    def encode_image(self, images: Tensor) -> Tensor:
        """(K, 3, R, R) in [0, 1] -> (K, D) of unit length, differentiable"""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (P, D) of unit length"""


_SLOTS = 4
"""Numbers of vectors are rounded up to a multiple of this."""

_RIVALS = 48
"""Likewise numbers of a text and its rivals: enough for two colors."""


@dataclass(frozen=True)
class Targets:
    """What one CLIP is to find in the picture: what is embedded once first, then the image prompts.

    All that changes from step to step is here for each of the S steps, so that the loop copies nothing to the
    device. Numbers of vectors and of rivals are rounded up, with zeros that weigh nothing, so that requests
    of many kinds have the same shapes.

    Attributes:
        vectors: unit embeddings of texts, targets, vectors and noise (V, D).
        pictures: of the image prompts, I of (1, 3, H, W) in [0, 1]; cut at each step as the drawing is.
        wholes: unit embeddings of the same, whole (I, D).
        weights: of each step (S, V + I); a negative one pushes away.
        stops: (V + I,) signed distances below which a prompt no longer pulls.
        pulling: for each step, which of the pictures have a weight other than 0.
        shares: of each prompt in the score (S, V + I), 0 or more; they add up to 1, or 0 where none pulls.
            Noise has none.
        rivals: of each vector, itself and what it is not (V, 1 + R, D); (0, 1, D) if none is told apart.
        is_rival: which of these count (V, 1 + R).
        contrasts: how much it counts to tell each from its rivals, times its weight (V,).
    """

    vectors: Tensor
    pictures: tuple[Tensor, ...]
    wholes: Tensor
    weights: Tensor
    stops: Tensor
    pulling: tuple[tuple[int, ...], ...]
    shares: Tensor
    rivals: Tensor
    is_rival: Tensor
    contrasts: Tensor


def targets_of(
    clip: Clip,
    prompts: Sequence[Prompt],
    pictures: Mapping[str, Image.Image],
    *,
    steps: int,
    size: tuple[int, int],
    device: torch.device,
    templates: Sequence[str] = ("{prompt}",),
    contrast: float = 0.0,
) -> Targets:
    """What a CLIP is to find in each of the steps of a drawing.

    Args:
        prompts: vectors among them are embeddings of this CLIP.
        pictures: RGB, by the names that the prompts use.
        size: (H, W) of the drawing, to which image prompts are scaled.
        templates: texts with a `{prompt}`; a text's embedding is the mean of it in each of them.
        contrast: how much it counts to tell each text that pulls from its rivals. A color or a part that many
            things share moves distances little; beside the rivals it is what decides.

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
        told_apart = {
            column: _embed_rivals(clip, prompt.text, templates).to(device)
            for column, prompt in enumerate(embedded)
            if contrast and prompt.text is not None and prompt.weight > 0
        }
    empty = _rounded_up(len(embedded), _SLOTS) - len(embedded)
    rivals, is_rival = _stacked(told_apart, len(embedded) + empty, none)

    def with_slots(row: Tensor, value: float = 0.0) -> Tensor:
        """With columns for empty slots: (..., P) -> (..., V + I)"""
        slots = row.new_full((*row.shape[:-1], empty), value)
        return torch.cat([row[..., : len(embedded)], slots, row[..., len(embedded) :]], -1).to(device)

    return Targets(
        vectors=F.pad(torch.cat([none, *vectors]), (0, 0, 0, empty)),
        pictures=tuple(to_tensor(original, size, device) for original in originals),
        wholes=torch.cat([none, *wholes]),
        weights=with_slots(weights),
        stops=with_slots(torch.tensor([-torch.inf if p.stop is None else p.stop for p in ordered])),
        pulling=tuple(
            tuple(place for place in range(len(cut)) if row[len(embedded) + place]) for row in schedule
        ),
        shares=with_slots(scored / scored.sum(1, keepdim=True).clamp(min=1e-8)),
        rivals=rivals,
        is_rival=is_rival,
        contrasts=torch.tensor(
            [contrast * (column in told_apart) for column in range(len(embedded) + empty)], device=device
        ),
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


def _stacked(told_apart: Mapping[int, Tensor], slots: int, none: Tensor) -> tuple[Tensor, Tensor]:
    """Texts and rivals by column -> (V, 1 + R, D), and which of them count (V, 1 + R): the first always."""
    if not told_apart:
        return none[:, None].expand(0, 1, -1), torch.ones(slots, 1, dtype=torch.bool, device=none.device)
    room = _rounded_up(max(map(len, told_apart.values())), _RIVALS)
    rivals = none.new_zeros(slots, room, none.shape[1])
    is_rival = torch.zeros(slots, room, dtype=torch.bool, device=none.device)
    is_rival[:, 0] = True
    for column, texts in told_apart.items():
        rivals[column, : len(texts)] = texts
        is_rival[column, : len(texts)] = True
    return rivals, is_rival


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


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
