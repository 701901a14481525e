"""Targets: the embeddings that CLIP should find in an image, computed once from the prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from models.clip import TextTooLong
from models.requests.generator import Drawing, GenerationError
from models.requests.prompts import distractors
from models.requests.request import Prompt


class Clip(Protocol):
    """The part of a CLIP that the loss needs."""

    name: str
    image_size: int  # R
    dimension: int  # D

    def encode_image(self, images: Tensor) -> Tensor:
        """(K, 3, R, R) in [0, 1] -> (K, D) of unit length, differentiable"""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (P, D) of unit length"""


_SLOTS = 4
"""Numbers of vectors are rounded up to a multiple of this."""

_DISTRACTORS = 48
"""Likewise numbers of a text and its distractors: enough for two colors."""


@dataclass(frozen=True)
class Targets:
    """The targets of one CLIP: embeddings that are computed once, then the image prompts.

    Values that change from step to step are here for all S steps: the loop copies nothing to the device.
    Numbers of vectors and distractors are padded with zeros of weight 0: many requests have the same shapes.

    Attributes:
        vectors: unit embeddings of texts, targets, vectors and noise (V, D).
        images: of the image prompts, I of (1, 3, H, W) in [0, 1]; cut at each step as the drawing is.
        wholes: unit embeddings of the same whole images (I, D).
        weights: of each step (S, V + I); a negative one pushes away.
        stops: (V + I,) signed distances below which a prompt no longer pulls.
        pulling: for each step, which of the images have a weight other than 0.
        shares: of each prompt in the score (S, V + I), 0 or more; they add up to 1, or 0 where none pulls.
            Noise has no share.
        distractors: each vector and its distractors (V, 1 + R, D); (0, 1, D) without contrast.
        is_distractor: which of these count (V, 1 + R).
        contrasts: weight of each vector's contrast, times its own weight (V,).
    """

    vectors: Tensor
    images: tuple[Tensor, ...]
    wholes: Tensor
    weights: Tensor
    stops: Tensor
    pulling: tuple[tuple[int, ...], ...]
    shares: Tensor
    distractors: Tensor
    is_distractor: Tensor
    contrasts: Tensor


def targets_of(
    clip: Clip,
    prompts: Sequence[Prompt],
    drawing: Drawing,
    device: torch.device,
    templates: Sequence[str] = ("{prompt}",),
    contrast: float = 0.0,
) -> Targets:
    """The targets of a CLIP for all steps of a drawing.

    Args:
        prompts: those of the drawing that this CLIP reads; vectors are embeddings of this CLIP.
        templates: texts with a `{prompt}`; a text's embedding is its mean over all of them.
        contrast: weight of telling each text of a weight above 0 from its distractors. A color or a part that
            many things share changes distances little; beside the distractors it decides.

    Raises:
        GenerationError: a text is longer than the CLIP reads, a vector has another dimension, or an image is
            not there.
    """
    embedded = [prompt for prompt in prompts if prompt.image is None]
    cut = [prompt for prompt in prompts if prompt.image is not None]
    ordered = [*embedded, *cut]
    originals = [drawing.image(prompt.image or "") for prompt in cut]
    steps = drawing.request.steps
    schedule = [[prompt.weight_at(index / steps) for prompt in ordered] for index in range(steps)]
    weights = torch.tensor(schedule)
    scored = weights.clamp(min=0) * torch.tensor([float(prompt.noise is None) for prompt in ordered])
    none = torch.empty(0, clip.dimension, device=device)
    with torch.no_grad():
        vectors = [_embed_prompt(clip, prompt, drawing, templates, device) for prompt in embedded]
        wholes = [_embed_whole(clip, original, device) for original in originals]
        contrasted = {
            column: _embed_distractors(clip, prompt.text, templates).to(device)
            for column, prompt in enumerate(embedded)
            if contrast and prompt.text is not None and prompt.weight > 0
        }
    empty = _rounded_up(len(embedded), _SLOTS) - len(embedded)
    distractors, is_distractor = _stacked(contrasted, len(embedded) + empty, none)

    def with_slots(row: Tensor, value: float = 0.0) -> Tensor:
        """With columns for empty slots: (..., P) -> (..., V + I)"""
        slots = row.new_full((*row.shape[:-1], empty), value)
        return torch.cat([row[..., : len(embedded)], slots, row[..., len(embedded) :]], -1).to(device)

    return Targets(
        vectors=F.pad(torch.cat([none, *vectors]), (0, 0, 0, empty)),
        images=tuple(to_tensor(original, drawing.size, device) for original in originals),
        wholes=torch.cat([none, *wholes]),
        weights=with_slots(weights),
        stops=with_slots(torch.tensor([-torch.inf if p.stop is None else p.stop for p in ordered])),
        pulling=tuple(
            tuple(place for place in range(len(cut)) if row[len(embedded) + place]) for row in schedule
        ),
        shares=with_slots(scored / scored.sum(1, keepdim=True).clamp(min=1e-8)),
        distractors=distractors,
        is_distractor=is_distractor,
        contrasts=torch.tensor(
            [contrast * (column in contrasted) for column in range(len(embedded) + empty)], device=device
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


def to_tensor(image: Image.Image, size: tuple[int, int], device: torch.device) -> Tensor:
    """An RGB image scaled to (H, W): (1, 3, H, W) in [0, 1]"""
    scaled = image.convert("RGB").resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1)[None].to(device).float().div(255)


def _embed_prompt(
    clip: Clip, prompt: Prompt, drawing: Drawing, templates: Sequence[str], device: torch.device
) -> Tensor:
    """A prompt other than an image prompt: (1, D)"""
    if prompt.text is not None:
        return embed(clip, prompt.text, templates).to(device)
    if prompt.target is not None:
        return _embed_whole(clip, drawing.image(prompt.target), device)
    if prompt.vector is not None:
        return _direction(clip, prompt.vector).to(device)
    # a random generator for each prompt: its noise does not depend on the others
    rng = torch.Generator().manual_seed(prompt.noise or 0)
    return F.normalize(torch.randn(1, clip.dimension, generator=rng), dim=-1).to(device)


def _embed_distractors(clip: Clip, text: str, templates: Sequence[str]) -> Tensor:
    """A text, then its distractors: (1 + R, D)"""
    return torch.cat([embed(clip, other, templates) for other in (text, *distractors(text))])


def _stacked(contrasted: Mapping[int, Tensor], slots: int, none: Tensor) -> tuple[Tensor, Tensor]:
    """Texts and distractors by column -> (V, 1 + R, D), and which count (V, 1 + R): the first always."""
    if not contrasted:
        return none[:, None].expand(0, 1, -1), torch.ones(slots, 1, dtype=torch.bool, device=none.device)
    room = _rounded_up(max(map(len, contrasted.values())), _DISTRACTORS)
    distractors = none.new_zeros(slots, room, none.shape[1])
    is_distractor = torch.zeros(slots, room, dtype=torch.bool, device=none.device)
    is_distractor[:, 0] = True
    for column, texts in contrasted.items():
        distractors[column, : len(texts)] = texts
        is_distractor[column, : len(texts)] = True
    return distractors, is_distractor


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _embed_whole(clip: Clip, image: Image.Image, device: torch.device) -> Tensor:
    side = clip.image_size
    return clip.encode_image(to_tensor(image, (side, side), device)).to(device)


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
