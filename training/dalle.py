"""Train dalle: a text to the codes of a picture of it, one after the other, of emoji in many colors.

`python -m training.dalle data/dalle`. VQGAN, prior and CLIP stay as they are.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.clip.encoder import ClipNetwork, load_network
from models.networks.dalle_model import WORDS, Dalle
from models.networks.prior import Prior
from models.networks.transformer import Transformer
from models.networks.vqgan import load_prior
from models.networks.vqgan.vqgan_model import Vqgan
from models.weights_io import load_tensors, save_tensors, sha256_of
from models.weights_io.card import WEIGHTS
from training.data import images as pictures
from training.data.batches import COLORS, Album, color_names, hues_turned, moved
from training.evaluate.encode import load_vqgan
from training.nets import loop
from training.prior import on_white

FILE = "model.safetensors"
VENDORS = (
    *("noto", "noto-v1", "twemoji", "emojione", "fluent-emoji", "fluent-emoji-flat", "fxemoji"),
    "streamline-emojis",
)
TEMPLATES = ("{}", "a {}", "an emoji of a {}", "a picture of a {}", "clip art of a {}")
_NOT_DRAWN = ("flag", "keycap", "input", "japanese", "squared", "regional")
_NOT_DRAWN_EITHER = ("button", "clock", "thirty")  # finer than the codes are
_WITHOUT_TEXT = 0.1  # share of pictures shown without their text: what guidance takes away
_TOLD_COLOR, _OTHER_WORD = 0.4, 0.1  # shares of captions with the picture's color, and with a keyword


@dataclass(frozen=True)
class Views:
    """Pictures as codes, each as it is, mirrored, and smaller in other hues."""

    codes: Tensor  # (N, T), row by row of the grid
    weights: Tensor  # (N,) how often each is drawn
    names: list[str]
    colors: list[str | None]
    turned: list[bool]  # whether its hue is another than its vendor's


class Texts:
    """Captions of views, and what the CLIP and the prior make of them."""

    def __init__(self, clip: ClipNetwork, prior: Prior, views: Views, keywords: dict[str, list[str]]) -> None:
        self.clip, self.prior, self._views, self._keywords = clip, prior, views, keywords

    def caption(self, view: int, chances: list[float]) -> str:
        """One of the things that a view could be asked for by; at times nothing.

        Args:
            chances: five numbers in [0, 1) that decide.
        """
        name, color = self._views.names[view], self._views.colors[view]
        turned = self._views.turned[view]
        if chances[0] < _WITHOUT_TEXT:
            return ""
        others = self._keywords.get(name)
        if others and chances[1] < _OTHER_WORD:
            name = others[int(chances[2] * len(others))]
        if turned:
            name = " ".join(word for word in name.split() if word not in COLORS)
        if color and color not in name.split() and (turned or chances[3] < _TOLD_COLOR):
            name = f"{color} {name}"
        return TEMPLATES[int(chances[4] * len(TEMPLATES))].format(name)

    @torch.no_grad()
    def read(self, captions: list[str]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Vectors of their words, embeddings, and the prior's logits; see `Dalle.conditions`."""
        embeddings = self.clip.encode_text(captions)
        return self.clip.word_vectors(captions), embeddings, self.prior.logits(embeddings)


def main() -> None:
    """Train, and write the weights."""
    parser = loop.arguments(__doc__, steps=6000, batch=16)
    parser.add_argument("--rate", type=float, default=2e-3, help="of learning; default: %(default)s")
    parser.add_argument("--views", type=int, default=3, help="of each picture; default: %(default)s")
    parser.add_argument("--width", type=int, default=192, help="of the transformer; default: %(default)s")
    parser.add_argument("--depth", type=int, default=6, help="layers; default: %(default)s")
    parser.add_argument("--heads", type=int, default=3, help="of attention; default: %(default)s")
    parser.add_argument("--vqgan", default="demo", help="its card")
    parser.add_argument("--tensors", type=Path, help="a file in place of that of the VQGAN's card")
    parser.add_argument("--prior", type=Path, help="a file in place of that of the prior on the card")
    parser.add_argument("--clip", default="demo-icons", help="the card of the CLIP that reads the texts")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="of the cards")
    chosen = parser.parse_args()
    rng = loop.prepare(chosen.seed)
    if chosen.prior:
        prior: Prior | None = Prior.read(load_tensors(chosen.prior)).to(chosen.device)
    else:
        prior = load_prior(chosen.vqgan, chosen.weights, chosen.device)
    if prior is None:
        parser.error(f"the VQGAN {chosen.vqgan} has no prior, on which dalle stands")
    vqgan = load_vqgan(chosen.vqgan, chosen.weights, chosen.tensors, prior.codes).to(chosen.device)
    clip = load_network(chosen.clip, chosen.weights, chosen.device)
    kept = chosen.folder / "views.pt"
    if not kept.exists():
        chosen.folder.mkdir(parents=True, exist_ok=True)
        torch.save(vars(views_of(Album.open(chosen.pictures), vqgan, chosen.views, rng)), kept)
    views = Views(**torch.load(kept, weights_only=True))
    texts = Texts(clip, prior, views, pictures.keywords(chosen.pictures))
    train(begin(texts, vqgan.codebook, chosen), views, texts, rng, chosen)
    weights = chosen.folder / FILE
    print(f"{weights}: for the card's [dalle], heads = {chosen.heads}, sha256 = {sha256_of(weights)}")


def views_of(album: Album, vqgan: Vqgan, number: int, rng: torch.Generator) -> Views:
    """A number of views of every emoji, in codes."""
    chosen = [
        place
        for place, (caption, vendor) in enumerate(zip(album.captions, album.vendors, strict=True))
        if vendor in VENDORS
        and not caption.name.startswith(_NOT_DRAWN)
        and not caption.name.endswith(_NOT_DRAWN_EITHER)
    ]
    codes, places, colors, turned = [], list[int](), list[str | None](), list[bool]()
    for start in track(range(0, len(chosen), 32), "codes"):
        some = chosen[start : start + 32]
        images = album.read(some)
        # what has several colors would get some that no caption tells
        is_clear = [color is not None for color in color_names(images)]
        for view in range(number):
            angles = torch.rand(len(some), generator=rng) * 5 + 0.6
            turns = [view > 1 and clear for clear in is_clear]
            shown = hues_turned(images, angles * torch.tensor(turns))
            if view > 1:
                shown = moved(shown, 128, rng, scales=(0.85, 1.08), turn=0, shift=0)
            with torch.inference_mode():
                placed = on_white(shown.flip(3) if view == 1 else shown)
                found = vqgan.codes(placed.to(vqgan.codebook.device))
                codes.append(found.flatten(1).short().cpu())
            places += some
            colors += color_names(shown)
            turned += turns
    names = [album.captions[place].name for place in places]
    return Views(torch.cat(codes), album.weights[places], names, colors, turned)


def begin(texts: Texts, codebook: Tensor, chosen: argparse.Namespace) -> Dalle:
    """An untrained one. Codes that look alike begin alike: their vectors are the codebook's, turned.

    Args:
        chosen: its width, depth and heads.
    """
    side = texts.prior.position.shape[-1]
    words = texts.clip.word_vectors(["a red heart"])[0]
    transformer = Transformer(
        vocabulary=len(codebook),
        length=WORDS + side * side,
        width=chosen.width,
        depth=chosen.depth,
        heads=chosen.heads,
    )
    dalle = Dalle(transformer, side=side, word_width=words.shape[1], dimension=texts.clip.dimension)
    for module in dalle.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
    for name, parameter in dalle.named_parameters():
        if name.endswith(".bias"):
            nn.init.zeros_(parameter)
        elif name.endswith(("project.weight", "shrink.weight", "head.weight")):
            nn.init.zeros_(parameter)  # at first, all that is told is what the prior knows
    nn.init.normal_(dalle.word.weight, std=0.02 / words.std().item())
    network = dalle.transformer
    looks = F.normalize(codebook.cpu() - codebook.cpu().mean(0), dim=-1)
    looks = looks @ torch.randn(looks.shape[1], chosen.width)
    rows, columns = torch.randn(2, side, chosen.width) * 0.05
    with torch.no_grad():
        network.tokens.weight.copy_(looks * 0.1 / looks.std())
        network.positions[0, : dalle.words].normal_(std=0.05)
        # of a place: its row's and its column's
        network.positions[0, dalle.words :].copy_((rows[:, None] + columns).flatten(0, 1))
    return dalle


def train(
    dalle: Dalle, views: Views, texts: Texts, rng: torch.Generator, chosen: argparse.Namespace
) -> Dalle:
    """Train, keep checkpoints in the folder, write the mean of the latest steps' weights there; returns that.

    Args:
        chosen: folder, steps, batch, rate, device and precision.
    """
    dalle = dalle.to(chosen.device)
    mean = AveragedModel(dalle, avg_fn=_closer)
    matrices = [p for name, p in dalle.named_parameters() if ".blocks." in name and p.ndim == 2]
    rest = [p for name, p in dalle.named_parameters() if not (".blocks." in name and p.ndim == 2)]
    # Muon learns in fewer steps (K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/)
    muon = torch.optim.Muon(matrices, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0)
    run = loop.Run(
        chosen.folder, chosen.steps, {"dalle": dalle, "mean": mean, "muon": muon, "adam": adam}, rng
    )
    for step in run:
        rate = chosen.rate * min(1.0, (step + 1) / 50, max(0.02, 2 * (1 - run.share)))
        places = torch.multinomial(views.weights, chosen.batch, replacement=True, generator=rng)
        chances = torch.rand(chosen.batch, 5, generator=rng).tolist()
        captions = [texts.caption(place, row) for place, row in zip(places.tolist(), chances, strict=True)]
        codes = views.codes[places].long().to(chosen.device)
        with loop.autocast(chosen.device, chosen.precision):
            logits = dalle(dalle.conditions(*texts.read(captions)), codes)
        loss = F.cross_entropy(logits.float().flatten(0, 1), codes.flatten())
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(dalle.parameters(), 1.0)
        for group in (*muon.param_groups, *adam.param_groups):
            group["lr"] = rate
        muon.step()  # type: ignore[no-untyped-call]
        adam.step()
        dalle.zero_grad(set_to_none=True)
        mean.update_parameters(dalle)
        run.report(cross_entropy=loss)
    trained = mean.module
    assert isinstance(trained, Dalle)
    tensors = {name: tensor.half() for name, tensor in trained.state_dict().items()}
    save_tensors(chosen.folder / FILE, tensors, {"steps": str(chosen.steps)})
    return trained


def _closer(mean: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
    """The mean of the latest 500 steps or so; of fewer at first."""
    return mean.lerp(new, max(0.002, 1 / (1 + int(count) / 4)))


if __name__ == "__main__":
    main()
