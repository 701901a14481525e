"""Train a CLIP of pictures and captions, beginning with a network that knows ImageNet.

    python -m training.clip data/clip-gates --start data/text --imagenet 0.8 6 --image-size 192 --steps 0
    python -m training.clip data/clip-icons --start data/text --imagenet 0.4 2.2

The first has no training: the scores of ImageNet's 1,000 classes become embeddings of their names (ConSE,
Norouzi et al. 2013, arXiv:1312.5650, as a layer), through sharp gates, which `training.gates` goes on with.
The second begins with soft ones and learns by contrast (Radford et al. 2021, arXiv:2103.00020); its trunk
goes a part of the way (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903). With `--keep-text` texts keep their
embeddings, and what was trained on them its worth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip import IMAGENET_CLASSNAMES
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from training.data import captions, images
from training.data.batches import Album
from training.nets import clip_network, loop, trunk
from training.text import marked

_NAME = 0.25  # length of a name's embedding behind its gate
_BANK, _STAY, _BANK_SCALE = 0.4, 1.0, 25.0  # weights of losses, and the inverse temperature of one


@dataclass(frozen=True)
class Bank:
    """Names, and the embeddings that the text tower had of them at first."""

    names: list[str]
    embeddings: Tensor  # (B, D)


def main() -> None:
    """Train, and write the weights."""
    parser = loop.arguments(__doc__, steps=2000, batch=80)
    parser.set_defaults(precision="fp32")
    parser.add_argument(
        "--start", type=Path, required=True, help="a folder or a card with weights to begin with"
    )
    parser.add_argument(
        "--imagenet",
        type=float,
        nargs=2,
        metavar=("GAIN", "THRESHOLD"),
        help="begin the image tower with EfficientNet-lite0, and gates of its class scores",
    )
    parser.add_argument("--image-size", type=int, default=128, help="pixels; default: %(default)s")
    parser.add_argument("--keep-text", action="store_true", help="train the image tower alone")
    parser.add_argument(
        "--rate", type=float, default=3e-4, help="of the trunk's learning; default: %(default)s"
    )
    parser.add_argument(
        "--way",
        type=float,
        default=0.75,
        help="that the trunk goes, of what it learned; default: %(default)s",
    )
    parser.add_argument("--vendors", nargs="+", help="sets to learn from; default: all")
    chosen = parser.parse_args()
    rng = loop.prepare(chosen.seed)
    learner = clip_network.build(chosen.image_size)
    clip_network.read(learner, chosen.start)
    if chosen.imagenet:
        know_imagenet(learner, trunk.load(), *chosen.imagenet)
    if chosen.steps:
        album, keywords = Album.open(chosen.pictures, chosen.vendors), images.keywords(chosen.pictures)
        train(
            learner.to(chosen.device),
            lambda: captions.drawn(album, keywords, chosen.batch, chosen.image_size, rng),
            bank(learner, sorted({caption.name for caption in album.captions})),
            chosen.folder,
            rng,
            steps=chosen.steps,
            rate=chosen.rate,
            way=chosen.way,
            keep_text=chosen.keep_text,
            precision=chosen.precision,
        )
    clip_network.write(learner, chosen.folder, chosen.image_size)


def know_imagenet(learner: CLIP, known: nn.Module, gain: float, threshold: float) -> None:
    """Make the image tower say what the classifier sees: a gate for each class lets its name through."""
    classifier = known.get_submodule("classifier")
    tensors = {
        name: value for name, value in known.state_dict().items() if not name.startswith("classifier.")
    }
    learner.visual.trunk.load_state_dict(tensors)
    gates, names = learner.visual.head.mlp.fc1, learner.visual.head.mlp.fc2
    classes = len(IMAGENET_CLASSNAMES)
    with torch.no_grad():
        gates.weight[:classes] = gain * classifier.get_parameter("weight")
        gates.bias[:classes] = gain * classifier.get_parameter("bias") - threshold
        names.weight.zero_()
        names.weight[:, :classes] = (
            _NAME * bank(learner, [name.lower() for name in IMAGENET_CLASSNAMES]).embeddings.T
        )


@torch.no_grad()
def bank(learner: CLIP, names: list[str]) -> Bank:
    """The text tower's embeddings of names."""
    tokenizer = SimpleTokenizer()
    ids = [marked(tokenizer, tokenizer.encode(name)) for name in names]
    rows = [clip_network.encode_texts(learner, ids[start : start + 256]) for start in range(0, len(ids), 256)]
    return Bank(names, torch.cat(rows))


def train(
    learner: CLIP,
    draw: Callable[[], captions.Captioned],
    names: Bank,
    folder: Path,
    rng: torch.Generator,
    *,
    steps: int,
    rate: float = 3e-4,
    way: float = 0.75,
    keep_text: bool = False,
    precision: str = "fp32",
) -> None:
    """Train, keep checkpoints in `folder`; then take the trunk back to `way` of what it learned."""
    device = str(learner.positional_embedding.device)
    began = {name: tensor.clone() for name, tensor in learner.visual.trunk.state_dict().items()}
    optimizer = torch.optim.AdamW(_groups(learner, rate, keep_text), betas=(0.9, 0.98), weight_decay=0.01)
    learner.to(memory_format=torch.channels_last).train()
    learner.visual.trunk.eval()  # the statistics of its norms stay ImageNet's
    tokenizer = SimpleTokenizer()
    places = {name: place for place, name in enumerate(names.names)}
    run = loop.Run(folder, steps, {"learner": learner, "optimizer": optimizer}, rng)
    for step in run:
        slope = min(1, (step + 1) / 40) * max(
            0.02, 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * run.share))))
        )
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * slope
        batch = draw()
        with loop.autocast(device, precision):
            seen = clip_network.encode_images(
                learner, batch.images.to(device, memory_format=torch.channels_last)
            )
            ids = [marked(tokenizer, tokenizer.encode(caption)) for caption in batch.captions]
            said = clip_network.encode_texts(learner, ids)
        losses = {"contrast": _contrast(seen, said, batch.names, learner.logit_scale.exp().clamp(max=60))}
        known = [place for place, name in enumerate(batch.names) if name in places]
        right = torch.tensor([places[batch.names[place]] for place in known], device=device)
        scores = _BANK_SCALE * seen[known] @ names.embeddings.T
        losses["bank"] = _BANK * F.cross_entropy(scores, right, label_smoothing=0.05)
        if not keep_text:
            some = torch.randint(len(names.names), (48,), generator=rng).tolist()
            with loop.autocast(device, precision):
                now = clip_network.encode_texts(
                    learner, [marked(tokenizer, tokenizer.encode(names.names[place])) for place in some]
                )
            losses["stay"] = _STAY * (1 - (now * names.embeddings[some]).sum(-1).mean())
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(
            [weight for group in optimizer.param_groups for weight in group["params"]], 2.0
        )
        optimizer.step()
        right_ones = (seen @ said.T).argmax(1).cpu() == torch.arange(len(seen))
        run.report(**losses, right=right_ones.float().mean())
    with torch.no_grad():
        for name, tensor in learner.visual.trunk.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(began[name] + way * (tensor - began[name]))


def _groups(learner: CLIP, rate: float, keep_text: bool) -> list[dict[str, object]]:
    """What learns, and how fast; the first layers of the trunk and the words' tokens do not."""
    learner.requires_grad_(True)
    learner.token_embedding.requires_grad_(False)
    trunk_ = learner.visual.trunk
    for module in (trunk_.conv_stem, trunk_.bn1, *trunk_.blocks[:3]):
        module.requires_grad_(False)
    kinds: dict[str, list[nn.Parameter]] = {"trunk": [], "head": [], "text": []}
    for name, weight in learner.named_parameters():
        kind = "trunk" if name.startswith("visual.trunk") else "head" if name.startswith("visual") else "text"
        if weight.requires_grad and name != "logit_scale":
            weight.requires_grad_(kind != "text" or not keep_text)
            kinds[kind].append(weight)
    with torch.no_grad():
        learner.logit_scale.fill_(20).log_()
    groups = [(kinds["trunk"], rate), (kinds["head"], 3 * rate), ([learner.logit_scale], 3 * rate)]
    groups += [] if keep_text else [(kinds["text"], rate * 2 / 3)]
    return [{"params": weights, "rate": factor} for weights, factor in groups]


def _contrast(seen: Tensor, said: Tensor, names: list[str], scale: Tensor) -> Tensor:
    """Each picture's caption among all, and each caption's picture; others of its name do not count."""
    own = torch.arange(len(names), device=seen.device)
    alike = torch.tensor([[one == other for other in names] for one in names], device=seen.device)
    logits = (scale * seen @ said.T).masked_fill(
        alike & ~torch.eye(len(names), dtype=torch.bool, device=seen.device), -1e4
    )
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


if __name__ == "__main__":
    main()
