"""The CLIP loss: how far an image is from its prompts, as a loss for each step and as a score.

After K. Crowson's VQGAN+CLIP notebooks; Crowson et al. 2022, https://arxiv.org/abs/2204.08583
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from models.clip.encoder import ClipNetwork
from models.cutouts.cutouts import Cutouts
from models.networks.footprint import LOW_MEMORY_VIEWS
from models.networks.shared_networks import Networks
from models.optimize.prompt_targets import Clip, Targets, targets_of
from models.requests.generator import Drawing, GenerationError
from models.requests.options import DrawingOptions, GuideOptions
from models.requests.request import Prompt
from models.runtime.autograd import straight_through
from models.runtime.batched_steps import StepScheduler

_SHARPNESS = 20.0
"""Scale of the logits in the contrast's softmax. CLIP's own 100 saturates early and then has no gradient."""


@dataclass(frozen=True)
class Guide:
    """A CLIP, its targets, and its weight among several CLIPs."""

    clip: Clip
    targets: Targets
    weight: float = 1.0  # above 0


def guides_of(drawing: Drawing, options: GuideOptions, networks: Networks) -> list[Guide]:
    """The CLIPs that guide a drawing, by `guide_weights`; one of weight 0 is not run.

    Vector prompts are embeddings of the first CLIP: the others ignore them.

    Raises:
        GenerationError: no CLIP is left to guide, or as `targets_of`.
    """
    clips = networks.guides()
    contrast = options.contrast if isinstance(options, DrawingOptions) else 0.0
    guides = []
    for clip in clips:
        weight = options.guide_weights.get(clip.name, 1.0)
        prompts = [prompt for prompt in drawing.request.prompts if prompt.vector is None or clip is clips[0]]
        if weight and prompts:
            targets = targets_of(clip, prompts, drawing, networks.device, options.templates, contrast)
            guides.append(Guide(clip, targets, weight))
    if not guides:
        raise GenerationError("guide_weights leave no CLIP that could guide by these prompts")
    return guides


def held_out_of(drawing: Drawing, networks: Networks) -> Guide | None:
    """The held-out CLIP as a scorer; None: there is none, or it cannot read the prompts.

    Raises:
        GenerationError: an image is not there.
    """
    clip = networks.held_out()
    return None if clip is None else scorer_of(clip, drawing, networks)


def scorer_of(clip: ClipNetwork, drawing: Drawing, networks: Networks) -> Guide | None:
    """A CLIP that compares whole images with plain texts and with whole images; None: it reads no prompt.

    Templates and other options have no effect: all scores of the same prompts can be compared.

    Raises:
        GenerationError: an image is not there.
    """
    prompts = [
        _whole(prompt) for prompt in drawing.request.prompts if prompt.vector is None and prompt.noise is None
    ]
    texts = [prompt.text for prompt in prompts if prompt.text is not None]
    if not prompts or any(clip.tokens.count(text) > clip.context_length for text in texts):
        return None
    return Guide(clip, targets_of(clip, prompts, drawing, networks.device))


def spherical_distance(a: Tensor, b: Tensor) -> Tensor:
    """Half the squared angle between unit vectors: (..., D), (..., D) -> (...) in [0, pi²/2]"""
    half_chord: Tensor = (a - b).norm(dim=-1).div(2)
    # opposite vectors may be 2 and some rounding apart, where there is no arcsine, nor a finite slope at 2
    return half_chord.clamp(max=1 - 1e-6).arcsin().pow(2).mul(2)


class ClipLoss:
    """The loss of an image against its prompts: each one's weight times its mean distance over the cutouts.

    With several CLIPs, each sees cutouts of its own size, and the loss is their weighted mean.

    Args:
        low_memory: encode few views at once, and recompute activations in the backward pass (Chen et al.
            2016, arXiv:1604.06174).
    """

    def __init__(
        self, guides: Sequence[Guide], cutouts: Cutouts, scheduler: StepScheduler, *, low_memory: bool = False
    ) -> None:
        self._guides, self._cutouts, self._scheduler = guides, cutouts, scheduler
        self._low_memory = low_memory

    def __call__(self, image: Tensor, index: int) -> Tensor:
        """The loss of step `index`, of 1 … steps: (1, 3, H, W) in [0, 1] -> scalar"""
        return _mean([(self._loss(image, guide, index), guide.weight) for guide in self._guides])

    def score(self, image: Tensor, index: int) -> Tensor:
        """As `scores`, by all guides: (1, 3, H, W) in [0, 1] -> scalar"""
        return scores(image, self._guides, index)[0]

    def _loss(self, image: Tensor, guide: Guide, index: int) -> Tensor:
        targets, count = guide.targets, len(guide.targets.vectors)
        pulling = targets.pulling[index - 1]
        prompts = [targets.images[place] for place in pulling]
        done = index / len(targets.pulling)
        # (1 + I, K, 3, R, R)
        images = torch.cat([image, *prompts]) if prompts else image
        views = self._cutouts(images, guide.clip.image_size, done)
        seen = self._encode(guide.clip, views.flatten(0, 1)).view(*views.shape[:2], -1)  # (1 + I, K, D)
        columns = [*range(count), *(count + place for place in pulling)]
        return self._scheduler.compute(
            prompts_loss,
            seen,
            targets.vectors,
            _columns(targets.weights[index - 1], columns),
            _columns(targets.stops, columns),
            targets.distractors,
            targets.is_distractor,
            targets.contrasts,
        )

    def _encode(self, clip: Clip, views: Tensor) -> Tensor:
        if not self._low_memory:
            return self._scheduler.forward(("encode", clip.name), clip.encode_image, views)
        pieces = torch.split(views, LOW_MEMORY_VIEWS)
        return torch.cat([recompute(clip.encode_image, piece, use_reentrant=False) for piece in pieces])


def prompts_loss(
    seen: Tensor,
    vectors: Tensor,
    weights: Tensor,
    stops: Tensor,
    distractors: Tensor,
    is_distractor: Tensor,
    contrasts: Tensor,
) -> Tensor:
    """The loss of the embedded views of the image and, cut alike, of image prompts: a scalar.

    Args:
        seen: unit embeddings (1 + I, K, D).
        vectors, distractors, is_distractor, contrasts: as `models.optimize.prompt_targets.Targets` has them.
        weights, stops: of the vectors, then of the image prompts (V + I,).
    """
    to_vectors = spherical_distance(seen[0][:, None], vectors[None])  # (K, V)
    # each view of the image against the same view of the image prompt
    to_images = spherical_distance(seen[0][:, None], seen[1:].transpose(0, 1))  # (K, I)
    signed = torch.cat([to_vectors, to_images], 1) * weights.sign()
    # below its stop a prompt keeps its loss but has no gradient
    pulled = straight_through(signed, torch.maximum(signed, stops))
    loss = (weights.abs() * pulled.mean(0)).sum()
    if len(distractors):
        confusion = _confusion(seen[0], distractors, is_distractor)
        loss = loss + (contrasts * weights[: len(vectors)] * confusion).sum()
    return loss


def scores(images: Tensor, guides: Sequence[Guide], index: int) -> Tensor:
    """Cosine similarity of whole images and the prompts that pull in step `index`, weighted over the guides.

    (N, 3, H, W) in [0, 1] -> (N,)
    """
    return _mean([(_cosines(images, guide, index), guide.weight) for guide in guides])


def _cosines(images: Tensor, guide: Guide, index: int) -> Tensor:
    size = (guide.clip.image_size, guide.clip.image_size)
    wholes = F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    targets = guide.targets
    cosines = guide.clip.encode_image(wholes) @ torch.cat([targets.vectors, targets.wholes]).T  # (N, V + I)
    return (cosines * targets.shares[index - 1]).sum(-1)


def _whole(prompt: Prompt) -> Prompt:
    """The prompt, with its image as a target, which is embedded once."""
    return prompt.model_copy(update={"image": None, "target": prompt.image}) if prompt.image else prompt


def _mean(weighted: Sequence[tuple[Tensor, float]]) -> Tensor:
    total = sum(weight for _, weight in weighted)
    first, *others = [value * (weight / total) for value, weight in weighted]
    return sum(others, first)


def _columns(row: Tensor, columns: Sequence[int]) -> Tensor:
    """Some columns of a row (P,), as slices: an index list would be copied to the device at each step."""
    if len(columns) == len(row):
        return row
    return torch.cat([row[:0], *(row[column : column + 1] for column in columns)])


def _confusion(seen: Tensor, distractors: Tensor, is_distractor: Tensor) -> Tensor:
    """Mean cross-entropy of the first text among those that count: (K, D), (V, 1 + R, D) -> (V,)"""
    logits = _SHARPNESS * seen @ distractors.transpose(1, 2)  # (V, K, 1 + R)
    return -logits.masked_fill(~is_distractor[:, None], -torch.inf).log_softmax(2)[..., 0].mean(1)
