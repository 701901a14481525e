"""Train the prior: a text's CLIP embedding to the codes of a picture of it, of emoji in many colors.

`python -m training.prior data/prior`; `--start models/weights/prior` goes on with weights that are there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from models import clip as clips
from models.networks.prior import Prior
from models.networks.vqgan.vqgan_model import Vqgan
from models.weights_io import load_tensors
from models.weights_io.card import WEIGHTS
from training.data.batches import COLORS, Album, color_names, hues_turned, over
from training.evaluate.encode import load_vqgan
from training.nets import loop

FILE = "model.safetensors"
VENDORS = ("noto", "noto-v1", "twemoji", "emojione", "fluent-emoji", "fluent-emoji-flat")
TEMPLATES = ("{}", "a {}", "an emoji of a {}")
_NOT_DRAWN = ("flag", "keycap", "input", "japanese")
_SIDE, _MARGIN = 96, 6  # pixels
_NOISE = 0.02  # of embeddings, so that texts near a name start alike


@dataclass(frozen=True)
class Pairs:
    """Codes of pictures, and the embeddings of the texts that name them."""

    codes: Tensor  # (N, side, side)
    texts: Tensor  # (T, templates, D), of unit length
    names: Tensor  # (N,) of each picture the place of its text


def main() -> None:
    """Train, and write the weights."""
    parser = loop.arguments(__doc__, steps=2000, batch=48)
    parser.add_argument("--start", type=Path, help="a folder with weights to begin with")
    parser.add_argument("--rate", type=float, default=1e-3, help="of learning; default: %(default)s")
    parser.add_argument("--vqgan", default="demo", help="its card")
    parser.add_argument("--tensors", type=Path, help="a file in place of that of the VQGAN's card")
    parser.add_argument(
        "--codes",
        type=int,
        default=1024,
        help="that it knows, the first there are; default: %(default)s",
    )
    parser.add_argument("--clip", default="demo-icons", help="the CLIP of the texts: the first guide's card")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the cards' weights")
    chosen = parser.parse_args()
    rng = loop.prepare(chosen.seed)
    vqgan = load_vqgan(chosen.vqgan, chosen.weights, chosen.tensors, chosen.codes).to(chosen.device)
    clip = clips.load(chosen.clip, chosen.weights, chosen.device)
    kept = chosen.folder / "pairs.pt"
    if not kept.exists():
        chosen.folder.mkdir(parents=True, exist_ok=True)
        torch.save(vars(pairs(Album.open(chosen.pictures), vqgan, clip.encode_texts, rng)), kept)
    found = Pairs(**torch.load(kept, weights_only=True))
    if chosen.start:
        prior = Prior.read(load_tensors(chosen.start / FILE))
    else:
        prior = Prior(found.texts.shape[-1], len(vqgan.codebook), found.codes.shape[-1])
    train(
        prior,
        found,
        chosen.folder,
        rng,
        steps=chosen.steps,
        batch=chosen.batch,
        rate=chosen.rate,
        device=chosen.device,
        precision=chosen.precision,
    )


def pairs(
    album: Album, vqgan: Vqgan, encode: Callable[[list[str]], np.ndarray], rng: torch.Generator
) -> Pairs:
    """Every emoji as it is and with its hues turned, under each name that `named` finds."""
    numbers = [
        number
        for number, (caption, vendor) in enumerate(zip(album.captions, album.vendors, strict=True))
        if vendor in VENDORS and not caption.name.startswith(_NOT_DRAWN)
    ]
    codes, names, owners = [], [], []
    for start in track(range(0, len(numbers), 32), "codes"):
        some = numbers[start : start + 32]
        images = album.read(some)
        turned = hues_turned(images, torch.rand(len(some), generator=rng) * 5 + 0.6)
        for shown in (images, turned):
            with torch.inference_mode():
                codes.append(vqgan.codes(on_white(shown).to(vqgan.codebook.device)).short().cpu())
            for place, (number, color) in enumerate(zip(some, color_names(shown), strict=True)):
                found = named(album.captions[number].name, color, is_turned=shown is turned)
                names += found
                owners += [(len(codes) - 1, place)] * len(found)
    places = {name: place for place, name in enumerate(sorted(set(names)))}
    texts = [template.format(name) for name in places for template in TEMPLATES]
    rows = [encode(texts[start : start + 256]) for start in track(range(0, len(texts), 256), "texts")]
    embeddings = torch.from_numpy(np.concatenate(rows)).view(len(places), len(TEMPLATES), -1)
    drawn = torch.stack([codes[group][place] for group, place in owners])
    return Pairs(drawn, embeddings, torch.tensor([places[name] for name in names]))


def train(
    prior: Prior,
    found: Pairs,
    folder: Path,
    rng: torch.Generator,
    *,
    steps: int,
    batch: int = 48,
    rate: float = 1e-3,
    device: str = "cpu",
    precision: str = "bf16",
) -> None:
    """Train, keep checkpoints in `folder`, write its weights."""
    prior = prior.requires_grad_().to(memory_format=torch.channels_last).to(device)
    optimizer = torch.optim.AdamW(prior.parameters(), weight_decay=0.02)
    run = loop.Run(folder, steps, {"prior": prior, "optimizer": optimizer}, rng)
    for step in run:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 50) * (1 - 0.97 * run.share)
        places = torch.randint(len(found.codes), (batch,), generator=rng)
        templates = torch.randint(found.texts.shape[1], (batch,), generator=rng)
        texts = found.texts[found.names[places], templates]
        texts = F.normalize(texts + _NOISE * torch.randn(texts.shape, generator=rng), dim=-1)
        with loop.autocast(device, precision):
            logits = prior.logits(texts.to(device))
        loss = F.cross_entropy(logits.float(), found.codes[places].long().to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.report(cross_entropy=loss)
    tensors = prior.write()
    save_file({name: tensor.half().contiguous().cpu() for name, tensor in tensors.items()}, folder / FILE)


def on_white(images: Tensor) -> Tensor:
    """Premultiplied pictures (N, 4, H, W) on white with a margin: (N, 3, 96, 96)"""
    inner = _SIDE - 2 * _MARGIN
    small = F.interpolate(images, size=(inner, inner), mode="bilinear", antialias=True)
    return over(F.pad(small, (_MARGIN,) * 4), 1.0)


def named(name: str, color: str | None, *, is_turned: bool) -> list[str]:
    """What to call a picture of `name` that is mostly of a color; nothing: it has a color that is not known.

    Args:
        is_turned: its hues are not those that its vendor gave it.
    """
    words = name.split()
    if any(word in COLORS for word in words):
        # a red heart, turned, is a heart of another color
        if not is_turned:
            return [name]
        return [" ".join(color if word in COLORS else word for word in words)] if color else []
    return [name] * (not is_turned) + [f"{color} {name}"] * (color is not None)


if __name__ == "__main__":
    main()
