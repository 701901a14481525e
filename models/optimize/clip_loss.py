"""Guidance: how far CLIP finds a picture from its prompts, as a loss for each step and as a score.

After K. Crowson's VQGAN+CLIP notebooks; Crowson et al. 2022, https://arxiv.org/abs/2204.08583
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from models.clip.encoder import ClipNetwork
from models.cutouts.cutouts import Cutouts
from models.networks.footprint import FRUGAL_VIEWS
from models.networks.shared_networks import Networks
from models.optimize.prompt_targets import Clip, Targets, targets_of
from models.requests.generator import GenerationError
from models.requests.options import DrawingOptions, GuideOptions
from models.requests.request import GenerationRequest, Prompt
from models.runtime.autograd import straight_through
from models.runtime.batched_steps import Company

_SHARPNESS = 20.0
"""Of the contrast's softmax. Softer than CLIP's own 100, which is sure too early and then stops pulling."""


@dataclass(frozen=True)
class Guide:
    """A CLIP, what it is to find, and how much it counts beside others."""

    clip: Clip
    targets: Targets
    weight: float = 1.0  # above 0


def guides_of(
    request: GenerationRequest,
    options: GuideOptions,
    networks: Networks,
    pictures: Mapping[str, Image.Image],
) -> list[Guide]:
    """The CLIPs that guide a drawing, as `guide_weights` has them; one of weight 0 is not run.

    Vector prompts are embeddings of the first CLIP: the others do not see them.

    Raises:
        GenerationError: none is left to guide, or as `targets_of`.
    """
    clips = networks.guides()
    guides = []
    for clip in clips:
        weight = options.guide_weights.get(clip.name, 1.0)
        prompts = [prompt for prompt in request.prompts if prompt.vector is None or clip is clips[0]]
        if weight and prompts:
            targets = targets_of(
                clip,
                prompts,
                pictures,
                steps=request.steps,
                size=(request.height, request.width),
                device=networks.device,
                templates=options.templates,
                contrast=options.contrast if isinstance(options, DrawingOptions) else 0.0,
            )
            guides.append(Guide(clip, targets, weight))
    if not guides:
        raise GenerationError("guide_weights leave no CLIP that could guide by these prompts")
    return guides


def judge_of(
    request: GenerationRequest, networks: Networks, pictures: Mapping[str, Image.Image]
) -> Guide | None:
    """The CLIP that scores a drawing and has no part in it; none: there is none, or it can read no prompt.

    It compares the whole picture with texts as they are, and with pictures whole; whatever the options are,
    scores of the same prompts can be compared.

    Raises:
        GenerationError: a picture is not there.
    """
    clip = networks.judge()
    return None if clip is None else onlooker(clip, request, networks, pictures)


def onlooker(
    clip: ClipNetwork,
    request: GenerationRequest,
    networks: Networks,
    pictures: Mapping[str, Image.Image],
) -> Guide | None:
    """A CLIP that scores whole pictures and has no part in them; none: it cannot read a prompt.

    Raises:
        GenerationError: a picture is not there.
    """
    prompts = [_whole(prompt) for prompt in request.prompts if prompt.vector is None and prompt.noise is None]
    texts = [prompt.text for prompt in prompts if prompt.text is not None]
    if not prompts or any(clip.tokens.count(text) > clip.context_length for text in texts):
        return None
    size, device = (request.height, request.width), networks.device
    return Guide(clip, targets_of(clip, prompts, pictures, steps=request.steps, size=size, device=device))


def spherical_distance(a: Tensor, b: Tensor) -> Tensor:
    """Half the squared angle between unit vectors: (..., D), (..., D) -> (...) in [0, pi²/2]"""
    half_chord: Tensor = (a - b).norm(dim=-1).div(2)
    # opposite vectors may be 2 and some rounding apart, where there is no arcsine, nor a finite slope at 2
    return half_chord.clamp(max=1 - 1e-6).arcsin().pow(2).mul(2)


class ClipGuidance:
    """The loss of a picture against its prompts: each one's weight times its mean distance over the cutouts.

    With several CLIPs, each sees cutouts of its own size, and the loss is their mean by weight.

    Args:
        frugal: encode few views at once, and again on the way back instead of keeping what lies between
            (Chen et al. 2016, arXiv:1604.06174).
    """

    def __init__(
        self,
        guides: Sequence[Guide],
        cutouts: Cutouts,
        company: Company,
        *,
        frugal: bool = False,
    ) -> None:
        self._guides, self._cutouts, self._company = guides, cutouts, company
        self._frugal = frugal

    def __call__(self, image: Tensor, index: int) -> Tensor:
        """The loss of step `index`, of 1 … steps: (1, 3, H, W) in [0, 1] -> scalar"""
        return _mean([(self._loss(image, guide, index), guide.weight) for guide in self._guides])

    def score(self, image: Tensor, index: int) -> Tensor:
        """As `score`, of all guides: (1, 3, H, W) in [0, 1] -> scalar"""
        return scores(image, self._guides, index)[0]

    def _loss(self, image: Tensor, guide: Guide, index: int) -> Tensor:
        targets, count = guide.targets, len(guide.targets.vectors)
        pulling = targets.pulling[index - 1]
        pictures = [targets.pictures[place] for place in pulling]
        done = index / len(targets.pulling)
        # (1 + I, K, 3, R, R)
        images = torch.cat([image, *pictures]) if pictures else image
        views = self._cutouts(images, guide.clip.image_size, done)
        seen = self._encode(guide.clip, views.flatten(0, 1)).view(*views.shape[:2], -1)  # (1 + I, K, D)
        columns = [*range(count), *(count + place for place in pulling)]
        return self._company.compute(
            prompts_loss,
            seen,
            targets.vectors,
            _columns(targets.weights[index - 1], columns),
            _columns(targets.stops, columns),
            targets.rivals,
            targets.is_rival,
            targets.contrasts,
        )

    def _encode(self, clip: Clip, views: Tensor) -> Tensor:
        if not self._frugal:
            return self._company.answer(("encode", clip.name), clip.encode_image, views)
        pieces = torch.split(views, FRUGAL_VIEWS)
        return torch.cat(
            [torch_checkpoint(clip.encode_image, piece, use_reentrant=False) for piece in pieces]
        )


def prompts_loss(
    seen: Tensor,
    vectors: Tensor,
    weights: Tensor,
    stops: Tensor,
    rivals: Tensor,
    is_rival: Tensor,
    contrasts: Tensor,
) -> Tensor:
    """The loss of what CLIP sees in the picture and, in the same views, in image prompts: a scalar.

    Args:
        seen: unit embeddings (1 + I, K, D).
        vectors, rivals, is_rival, contrasts: as `models.optimize.prompt_targets.Targets` has them.
        weights, stops: of the vectors, then of the image prompts (V + I,).
    """
    to_vectors = spherical_distance(seen[0][:, None], vectors[None])  # (K, V)
    # each view of the picture against the same view of the image prompt
    to_images = spherical_distance(seen[0][:, None], seen[1:].transpose(0, 1))  # (K, I)
    signed = torch.cat([to_vectors, to_images], 1) * weights.sign()
    # below its stop a prompt keeps its loss, but pulls no more
    pulled = straight_through(signed, torch.maximum(signed, stops))
    loss = (weights.abs() * pulled.mean(0)).sum()
    if len(rivals):
        confusion = _confusion(seen[0], rivals, is_rival)
        loss = loss + (contrasts * weights[: len(vectors)] * confusion).sum()
    return loss


def scores(images: Tensor, guides: Sequence[Guide], index: int) -> Tensor:
    """As `score` of each picture, of all guides by weight: (N, 3, H, W) in [0, 1] -> (N,)"""
    return _mean([(_cosines(images, guide, index), guide.weight) for guide in guides])


def score(image: Tensor, guide: Guide, index: int) -> Tensor:
    """Cosine of the whole picture and the prompts that pull in step `index`: (1, 3, H, W) -> scalar"""
    return _cosines(image, guide, index)[0]


def _cosines(images: Tensor, guide: Guide, index: int) -> Tensor:
    size = (guide.clip.image_size, guide.clip.image_size)
    wholes = F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    targets = guide.targets
    cosines = guide.clip.encode_image(wholes) @ torch.cat([targets.vectors, targets.wholes]).T  # (N, V + I)
    return (cosines * targets.shares[index - 1]).sum(-1)


def _whole(prompt: Prompt) -> Prompt:
    """The same, with an image prompt as a target: embedded once."""
    return prompt.model_copy(update={"image": None, "target": prompt.image}) if prompt.image else prompt


def _mean(weighted: Sequence[tuple[Tensor, float]]) -> Tensor:
    total = sum(weight for _, weight in weighted)
    first, *others = [value * (weight / total) for value, weight in weighted]
    return sum(others, first)


def _columns(row: Tensor, columns: Sequence[int]) -> Tensor:
    """Those of a row (P,), by views: a list as an index would be copied to the device at each step."""
    if len(columns) == len(row):
        return row
    return torch.cat([row[:0], *(row[column : column + 1] for column in columns)])


def _confusion(seen: Tensor, rivals: Tensor, is_rival: Tensor) -> Tensor:
    """Mean cross-entropy of finding the first text among those that count: (K, D), (V, 1 + R, D) -> (V,)"""
    logits = _SHARPNESS * seen @ rivals.transpose(1, 2)  # (V, K, 1 + R)
    return -logits.masked_fill(~is_rival[:, None], -torch.inf).log_softmax(2)[..., 0].mean(1)
