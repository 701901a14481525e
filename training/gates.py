"""Teach the gates of a photo CLIP to give way to one another; `training.clip --steps 0` makes such gates.

    python -m training.gates data/clip-photo --start data/clip-gates --pictures data/pictures

A gate opens by the score of its own class alone, so that a picture of which the classifier is unsure opens
none, or any. How much each name should weigh is what the classifier's probabilities say, and what the head
learns here from them (Hinton et al. 2015, arXiv:1503.02531). It needs no photos for that: it sees what the
trunk makes of drawn pictures in the public domain, mixtures of that, and some of it moved towards the weights
of a class.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip import IMAGENET_CLASSNAMES
from rich.progress import track
from torch import Tensor, nn

from training import captions, loop, network, trunk
from training.batches import Album
from training.clip import bank

VENDORS = ["openclipart"]
_MADE_UP = 0.7  # share of features
_ORDER, _STAY, _SCALE = 0.05, 1e-3, 30.0  # weights of losses, and the inverse temperature of one


def main() -> None:
    """Train, and write the weights."""
    parser = loop.arguments(__doc__, steps=300, batch=512)
    parser.add_argument("--start", type=Path, required=True, help="a folder with weights to begin with")
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
    wake(learner.visual.head.mlp, rng)
    names = bank(learner, [name.lower() for name in IMAGENET_CLASSNAMES]).embeddings
    train(
        learner.visual.head.mlp,
        trunk.load().get_submodule("classifier").to(chosen.device),
        names,
        torch.load(kept, weights_only=True).to(chosen.device),
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
def wake(head: nn.Module, rng: torch.Generator) -> None:
    """Begin with small random weights where a gate leads nowhere yet: from nothing it would not learn."""
    gates, names = head.get_submodule("fc1"), head.get_submodule("fc2")
    idle = names.get_parameter("weight").abs().sum(0) == 0
    weight = gates.get_parameter("weight")
    weight[idle] = 0.01 * torch.randn(int(idle.sum()), weight.shape[1], generator=rng).to(weight.device)


def train(
    head: nn.Module,
    classifier: nn.Module,
    names: Tensor,
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
        names: of the classes, (C, D) of unit length.
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
        taught = F.normalize(classifier(seen).softmax(-1) @ names, dim=-1)
        learned = F.normalize(head(seen), dim=-1)
        order, right = (_SCALE * (vectors @ names.T) for vectors in (learned, taught))
        losses = {
            "cosine": 1 - (learned * taught).sum(-1).mean(),
            "order": _ORDER * F.kl_div(order.log_softmax(-1), right.softmax(-1), reduction="batchmean"),
            # sharp gates are right where the classifier is sure, on photos too, of which there are none here
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
