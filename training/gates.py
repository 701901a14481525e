"""Make a photo CLIP's head of gates that give way to one another; `training.clip --steps 0` makes the rest.

    python -m training.gates data/clip-photo --start data/clip-gates --pictures data/pictures

A gate that opens by the score of its own class alone is shut, as all others are, to a picture of which the
classifier is unsure. How much each name should weigh is what the classifier's probabilities say: a class's
score less the logarithm of the sum of all scores' exponentials. Each gate begins with what of that sum is
linear in the features, and learns the rest from the probabilities (Hinton et al. 2015, arXiv:1503.02531).
It needs no photos for that: it sees what the trunk makes of drawn pictures in the public domain, mixtures
of that, and some of it moved towards the weights of a class.

What a class means is its name, some of the names of its kinds, so that a broad name finds it, and some of
*person* or *flower* where its photos show these, for which ImageNet has no class or hardly one.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip import IMAGENET_CLASSNAMES
from open_clip.model import CLIP
from rich.progress import track
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from training.clip import bank
from training.data import captions, kinds, packages, sets
from training.data.batches import Album
from training.nets import clip_network as network
from training.nets import loop, trunk

VENDORS = ["openclipart"]
_MADE_UP = 0.7  # share of features
_KINDS, _SHOWN = 0.2, 0.4  # of a meaning, beside the name
_GAIN, _BIAS = 1.5, 6.0  # of the gates that it begins with
_RIDGE = 0.1
_ORDER, _STAY, _SCALE = 0.05, 1e-2, 30.0  # weights of losses, and the inverse temperature of one


def main() -> None:
    """Train, and write the weights."""
    parser = loop.arguments(__doc__, steps=300, batch=512)
    parser.add_argument(
        "--start", type=Path, required=True, help="a folder or a card with weights to begin with"
    )
    parser.add_argument("--image-size", type=int, default=192, help="pixels; default: %(default)s")
    parser.add_argument("--shown", type=int, default=8000, help="pictures to look at; default: %(default)s")
    chosen = parser.parse_args()
    rng = loop.prepare(chosen.seed)
    learner = network.build(chosen.image_size)
    network.read(learner, chosen.start)
    learner.to(chosen.device).eval()
    kept = chosen.folder / "features.pt"
    if not kept.exists():
        chosen.folder.mkdir(parents=True, exist_ok=True)
        album = Album.open(chosen.pictures, VENDORS)
        found = look(
            learner.visual.trunk,
            lambda: captions.drawn(album, {}, 80, chosen.image_size, rng).images.to(chosen.device),
            chosen.shown // 80,
        )
        torch.save(found, kept)
    features = torch.load(kept, weights_only=True).to(chosen.device)
    classifier = trunk.load().get_submodule("classifier").to(chosen.device)
    nouns = packages.apt(sets.WORDS, chosen.pictures / "packages") / "usr/share/wordnet/data.noun"
    classes = ImageNetInfo().label_names()  # type: ignore[no-untyped-call]
    meanings = meant(learner, kinds.read(nouns, classes))
    # of its own random numbers: a run that is resumed has drawn no pictures before
    begin(learner.visual.head.mlp, classifier, meanings, features, torch.Generator().manual_seed(chosen.seed))
    train(
        learner.visual.head.mlp,
        classifier,
        meanings,
        features,
        chosen.folder,
        rng,
        steps=chosen.steps,
        batch=chosen.batch,
    )
    network.write(learner, chosen.folder, chosen.image_size)


@torch.no_grad()
def look(network: nn.Module, draw: Callable[[], Tensor], batches: int) -> Tensor:
    """What the trunk makes of pictures: (N, F)"""
    return torch.cat([network(draw() * 2 - 1).cpu() for _ in track(range(batches), "features")])


@torch.no_grad()
def meant(learner: CLIP, found: kinds.Kinds) -> Tensor:
    """What ImageNet's classes mean: (1000, D) of unit length"""
    names = bank(learner, [name.lower() for name in IMAGENET_CLASSNAMES]).embeddings
    outer, beside = (bank(learner, some).embeddings for some in (found.names, [*kinds.SHOWN]))
    members = found.members.to(names.device)
    rarity = (len(members) / members.sum(0)).log().sqrt()  # the rarer a kind, the more it says of a class
    of_kinds = F.normalize(members * rarity @ outer, dim=-1)
    of_shown = kinds.shown().to(names.device) @ beside
    return F.normalize(names + _KINDS * of_kinds + _SHOWN * of_shown, dim=-1)


@torch.no_grad()
def begin(
    head: nn.Module, classifier: nn.Module, meanings: Tensor, features: Tensor, rng: torch.Generator
) -> None:
    """Make a gate of each class that opens by its score less what features say linearly of all scores.

    Gates to spare begin with small random weights, from which they can learn.

    Args:
        head, classifier, meanings, features: as of `train`.
    """
    weights, biases = classifier.get_parameter("weight"), classifier.get_parameter("bias")
    ones = torch.ones(len(features), 1, device=features.device)
    known = torch.cat([features, ones], 1)  # (N, F + 1)
    penalty = _RIDGE * len(features) * torch.eye(known.shape[1], device=features.device)
    penalty[-1, -1] = 0
    of_all = torch.linalg.solve(known.T @ known + penalty, known.T @ classifier(features).logsumexp(-1))
    gates, names = head.get_submodule("fc1"), head.get_submodule("fc2")
    weight, classes = gates.get_parameter("weight"), len(weights)
    weight.copy_(0.01 * torch.randn(weight.shape, generator=rng))
    weight[:classes] = _GAIN * (weights - of_all[:-1])
    gates.get_parameter("bias").zero_()
    gates.get_parameter("bias")[:classes] = _GAIN * (biases - of_all[-1]) + _BIAS
    for parameter in names.parameters():
        parameter.zero_()
    names.get_parameter("weight")[:, :classes] = 0.25 * meanings.T


def train(
    head: nn.Module,
    classifier: nn.Module,
    meanings: Tensor,
    features: Tensor,
    folder: Path,
    rng: torch.Generator,
    *,
    steps: int,
    batch: int,
    rate: float = 1e-3,
) -> None:
    """Train the head, keep checkpoints in `folder`.

    Args:
        head: features (N, F) -> embeddings (N, D).
        classifier: features (N, F) -> scores of classes (N, C).
        meanings: of the classes, (C, D) of unit length.
        features: of pictures, (N, F).
    """
    head.requires_grad_(True)
    classifier.requires_grad_(False)
    began = [weight.detach().clone() for weight in head.parameters()]
    optimizer = torch.optim.Adam(head.parameters())
    run = loop.Run(folder, steps, {"head": head, "optimizer": optimizer}, rng)
    for step in run:
        for group in optimizer.param_groups:
            fall = 0.5 + 0.5 * float(torch.cos(torch.tensor(torch.pi * run.share)))
            group["lr"] = rate * min(1, (step + 1) / 100) * fall
        seen = some(features, classifier, batch, rng)
        taught = F.normalize(classifier(seen).softmax(-1) @ meanings, dim=-1)
        learned = F.normalize(head(seen), dim=-1)
        order, right = (_SCALE * (vectors @ meanings.T) for vectors in (learned, taught))
        losses = {
            "cosine": 1 - (learned * taught).sum(-1).mean(),
            "order": _ORDER * F.kl_div(order.log_softmax(-1), right.softmax(-1), reduction="batchmean"),
            # what it began with holds for photos too, of which there are none here
            "stay": _STAY
            * torch.stack(
                [(now - then).square().sum() for now, then in zip(head.parameters(), began, strict=True)]
            ).sum(),
        }
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.report(**losses)


def some(features: Tensor, classifier: nn.Module, count: int, rng: torch.Generator) -> Tensor:
    """Features to learn from: as they are, mixed, and moved until the classifier is as sure as of photos."""

    def numbers(*shape: int) -> Tensor:
        return torch.rand(shape, generator=rng).to(features.device)

    one, other = (
        features[torch.randint(len(features), (count,), generator=rng).to(features.device)] for _ in range(2)
    )
    share = numbers(count, 1)
    mixed = share * one + (1 - share) * other
    weights = classifier.get_parameter("weight")
    rows, strays = (
        weights[torch.randint(len(weights), (count,), generator=rng).to(features.device)] for _ in range(2)
    )
    base = mixed * (0.5 + numbers(count, 1))
    lacking = (4 + 9 * numbers(count, 1) - (base * rows).sum(1, keepdim=True)).clamp(min=0)  # of a score
    moved = base + lacking * (
        rows / rows.square().sum(1, keepdim=True)
        + 0.5 * numbers(count, 1) * F.normalize(strays) / rows.norm(dim=1, keepdim=True)
    )
    kind = numbers(count, 1)
    natural = 0.7 * (1 - _MADE_UP)
    mixed = mixed * (0.7 + 0.8 * numbers(count, 1))
    return torch.where(kind < natural, one, torch.where(kind < 1 - _MADE_UP, mixed, moved.clamp(min=0)))


if __name__ == "__main__":
    main()
