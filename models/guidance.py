"""Guidance: the loss that says how far CLIP finds a picture from its prompts.

After K. Crowson's VQGAN+CLIP notebooks; Crowson et al. 2022, https://arxiv.org/abs/2204.08583
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from models.clip import TextTooLong
from models.cutouts import Cutouts
from models.drawing import straight_through
from models.generators import GenerationError
from models.prompts import rivals
from models.requests import Prompt

_SHARPNESS = 20.0
"""Of the contrast's softmax. Softer than CLIP's own 100, which is sure too early and then stops pulling."""


_FRUGAL_VIEWS = 4


class Clip(Protocol):
    """The side of a CLIP that guidance looks at."""

    image_size: int  # R

    def encode_image(self, images: Tensor) -> Tensor:
        """(K, 3, R, R) in [0, 1] -> (K, D) of unit length, differentiable"""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (P, D) of unit length"""


@dataclass(frozen=True)
class Targets:
    """What one CLIP is to find in the picture: the texts first, then the image prompts.

    Attributes:
        texts: unit embeddings (T, D).
        images: (I, 3, H, W) in [0, 1], cut at each step as the picture is.
        weights: (T + I,); a negative one pushes away.
        stops: (T + I,) signed distances below which a prompt no longer pulls.
        rivals: for each text that pulls, itself and what it is not (1 + R, D), and its weight; none without
            contrast.
    """

    texts: Tensor
    images: Tensor
    weights: Tensor
    stops: Tensor
    rivals: Sequence[tuple[Tensor, float]]


def spherical_distance(a: Tensor, b: Tensor) -> Tensor:
    """Half the squared angle between unit vectors: (..., D), (..., D) -> (...) in [0, pi²/2]"""
    half_chord: Tensor = (a - b).norm(dim=-1).div(2)
    return half_chord.arcsin().pow(2).mul(2)


class ClipGuidance:
    """The loss of a picture against its prompts: each one's weight times its mean distance over the cutouts.

    With several CLIPs, each sees cutouts of its own, and their losses are averaged.

    Args:
        contrast: how much it counts to tell each text that pulls from its rivals. A color or a part that many
            things share moves distances little; beside the rivals it is what decides.
        frugal: encode few views at once, and again on the way back instead of keeping what lies between
            (Chen et al. 2016, arXiv:1604.06174).
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        targets: Sequence[Targets],
        cutouts: Cutouts,
        *,
        contrast: float = 0.0,
        frugal: bool = False,
    ) -> None:
        self._pairs = list(zip(clips, targets, strict=True))
        self._cutouts = cutouts
        self._contrast = contrast
        self._frugal = frugal

    def __call__(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> scalar"""
        losses = [self._loss(image, clip, targets) for clip, targets in self._pairs]
        return torch.stack(losses).mean()

    def score(self, image: Tensor) -> Tensor:
        """Cosine of the whole picture and the prompts that pull, by weight: (1, 3, H, W) -> scalar"""
        scores = []
        for clip, targets in self._pairs:
            pictures = _fit(torch.cat([image, targets.images]), (clip.image_size, clip.image_size))
            seen = clip.encode_image(pictures)  # (1 + I, D)
            shares = targets.weights.clamp(min=0)
            cosines = torch.cat([targets.texts, seen[1:]]) @ seen[0]
            scores.append((cosines * shares).sum() / shares.sum().clamp(min=1e-8))
        return torch.stack(scores).mean()

    def _loss(self, image: Tensor, clip: Clip, targets: Targets) -> Tensor:
        views = self._cutouts(torch.cat([image, targets.images]), clip.image_size)  # (1 + I, K, 3, R, R)
        seen = self._encode(clip, views.flatten(0, 1)).view(*views.shape[:2], -1)  # (1 + I, K, D)
        to_texts = spherical_distance(seen[0][:, None], targets.texts[None])  # (K, T)
        # each view of the picture against the same view of the image prompt
        to_images = spherical_distance(seen[0][:, None], seen[1:].transpose(0, 1))  # (K, I)
        signed = torch.cat([to_texts, to_images], 1) * targets.weights.sign()
        floored = torch.maximum(signed, targets.stops)
        pulled = straight_through(
            signed, floored
        )  # below its stop a prompt keeps its loss, but pulls no more
        loss = (targets.weights.abs() * pulled.mean(0)).sum()
        for texts, weight in targets.rivals:
            loss = loss + self._contrast * weight * _confusion(seen[0], texts)
        return loss

    def _encode(self, clip: Clip, views: Tensor) -> Tensor:
        if not self._frugal:
            return clip.encode_image(views)
        pieces = torch.split(views, _FRUGAL_VIEWS)
        return torch.cat(
            [torch_checkpoint(clip.encode_image, piece, use_reentrant=False) for piece in pieces]
        )


def targets_of(
    clip: Clip,
    prompts: Sequence[Prompt],
    pictures: Mapping[str, Image.Image],
    *,
    templates: Sequence[str],
    contrasted: bool,
    size: tuple[int, int],
    device: torch.device,
) -> Targets:
    """What a CLIP is to find, from a request's prompts.

    Args:
        pictures: RGB, by the names that the prompts use.
        templates: texts with a `{prompt}`; a prompt's embedding is the mean of it in each of them.
        contrasted: embed rivals, too.
        size: (H, W) of the drawing, to which image prompts are scaled.

    Raises:
        GenerationError: a text is longer than the CLIP reads, or a picture is not there.
    """
    texts = [prompt for prompt in prompts if prompt.text is not None]
    named = [prompt for prompt in prompts if prompt.image is not None]
    embeddings = [embed(clip, prompt.text or "", templates) for prompt in texts]
    images = [to_tensor(find_picture(pictures, prompt.image or ""), size, device) for prompt in named]
    ordered = [*texts, *named]
    told_apart = [prompt for prompt in texts if contrasted and prompt.weight > 0]
    return Targets(
        texts=torch.cat([*embeddings, clip.encode_text(["a"])[:0]]).to(device),
        images=torch.cat([*images, torch.zeros(0, 3, *size, device=device)]),
        weights=torch.tensor([prompt.weight for prompt in ordered], device=device),
        stops=torch.tensor([-torch.inf if p.stop is None else p.stop for p in ordered], device=device),
        rivals=[(_with_rivals(clip, p.text or "", templates).to(device), p.weight) for p in told_apart],
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
        raise GenerationError(f"the prompt is too long: {error}") from error
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


def _with_rivals(clip: Clip, text: str, templates: Sequence[str]) -> Tensor:
    return torch.cat([embed(clip, other, templates) for other in (text, *rivals(text))])


def _confusion(seen: Tensor, texts: Tensor) -> Tensor:
    """Cross-entropy of finding the first text among all: (K, D), (1 + R, D) -> scalar"""
    logits = _SHARPNESS * seen @ texts.T  # (K, 1 + R)
    return F.cross_entropy(logits, torch.zeros(len(seen), dtype=torch.long, device=seen.device))


def _fit(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1)
