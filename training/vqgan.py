"""Train the VQGAN: pictures to codes of a codebook and back, for a discriminator if one is wanted.

`python -m training.vqgan data/vqgan` trains from scratch; `--start data/vqgan/model.safetensors --codes 4096`
goes on with more codes: those there were stay as they are, and in a third of the steps the decoder paints
what the network at the start makes of pictures, so that what was trained on its codes keeps its worth.

Esser, Rombach and Ommer 2021, arXiv:2012.09841; van den Oord et al. 2017, arXiv:1711.00937; Isola et al.
2017, arXiv:1611.07004 (PatchGAN); Lim and Ye 2017, arXiv:1705.02894 (hinge loss).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from taming.modules.discriminator.model import NLayerDiscriminator, weights_init
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.networks.vqgan import read_card
from models.networks.vqgan.vqgan_model import Vqgan
from models.weights_io.card import WEIGHTS as SHIPPED
from training.data import textures
from training.data.batches import Album, hues_turned, moved, over
from training.evaluate.encode import load_vqgan
from training.nets import loop, trunk

WEIGHTS = "model.safetensors"
_SQUARES, _CHROMA, _PERCEPTUAL, _ADVERSARIAL, _COMMITMENT = 2.0, 2.0, 0.6, 0.05, 0.65  # weights of losses
_HEAD_START = 0.1  # of the steps that the discriminator learns alone: untaught, it is fooled by bad pictures
_TABLE = "quantize.embedding.weight"
_BANK = 40  # steps of latents from which the codebook is made
_ROWS = 8192  # latents that are compared with the codebook at once
_EARLIER = 3  # of so many steps one is of the codes at the start
_REVIVED = 33 * _EARLIER  # steps after which codes that are hardly used move


def main() -> None:
    """Train, and write the weights."""
    parser = loop.arguments(__doc__, steps=6000, batch=8)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[96], help="pixels; each step takes one; default: 96"
    )
    parser.add_argument("--start", type=Path, help="a file of weights to begin with; its codes stay")
    parser.add_argument("--codes", type=int, default=1024, help="of the codebook; default: %(default)s")
    parser.add_argument(
        "--photos", type=float, default=0, help="share of the pictures that have textures as photos have"
    )
    parser.add_argument(
        "--gan-from",
        type=float,
        default=1.0,
        help="share of the steps before a discriminator; default: none at all",
    )
    parser.add_argument("--rate", type=float, default=1e-3, help="of learning; default: %(default)s")
    chosen = parser.parse_args()
    card = read_card("demo")
    rng = loop.prepare(chosen.seed)
    network = Vqgan(
        card.config.model_copy(update={"n_embed": chosen.codes}), card.kind, card.channels_per_group
    )
    earlier = load_vqgan("demo", SHIPPED, chosen.start) if chosen.start else None
    if earlier is not None and len(earlier.codebook) > chosen.codes:
        parser.error(
            f"{chosen.start} has {len(earlier.codebook)} codes, which stay: --codes of as many or more"
        )
    album = Album.open(chosen.pictures)

    def draw() -> Tensor:
        size = chosen.sizes[torch.randint(len(chosen.sizes), (), generator=rng).item()]
        return drawn(album, chosen.batch, size, rng, photos=chosen.photos)

    trainer = Trainer(network, trunk.Likeness(trunk.load()), chosen.device, chosen.precision, earlier)
    trainer.train(
        draw,
        chosen.folder,
        rng,
        steps=chosen.steps,
        rate=chosen.rate,
        gan_from=chosen.gan_from,
        unjudged=round(chosen.photos * chosen.batch),
    )


def drawn(album: Album, count: int, size: int, rng: torch.Generator, *, photos: float = 0) -> Tensor:
    """A batch to reconstruct: (count, 3, size, size) in [-1, 1], whole pictures, most of them on white.

    Args:
        photos: share of them, the first, that have textures as photos have.
    """
    images = album.read(album.draw(count, rng))
    turned = torch.rand(count, generator=rng) < 0.3
    images = hues_turned(images, torch.rand(count, generator=rng) * 6.28 * turned)
    images = moved(images, size, rng, scales=(0.7, 1.1), turn=0.1, shift=0.08)
    white = (torch.rand(count, generator=rng) < 0.6).float()[:, None, None, None]
    colors = torch.rand(count, 3, 1, 1, generator=rng)
    grounds = torch.maximum(white, colors)
    made = over(images, grounds).clamp(0, 1)
    if textured := round(photos * count):
        made[:textured] = textures.worn(images[:textured], grounds[:textured], rng)
    return made * 2 - 1


class Trainer:
    """What learns: a VQGAN, a discriminator, and a reader of colors that keeps them in the codes.

    Args:
        earlier: a network to begin with, of fewer codes or as many.
    """

    def __init__(
        self,
        network: Vqgan,
        likeness: nn.Module,
        device: str,
        precision: str,
        earlier: Vqgan | None = None,
    ) -> None:
        self.earlier, self.kept = earlier, 0  # codes that stay as they are
        if earlier is not None:
            self.kept = len(earlier.codebook)
            more = network.codebook.detach()[self.kept :]
            network.read(earlier.state_dict() | {_TABLE: torch.cat([earlier.codebook, more])})
            earlier.to(memory_format=torch.channels_last).to(device)
        self.network = network.to(memory_format=torch.channels_last).to(device)
        self.likeness = likeness.to(memory_format=torch.channels_last).to(device)
        self.discriminator = NLayerDiscriminator(ndf=32, n_layers=2).apply(weights_init).to(device)
        codes, dimension = network.codebook.shape
        self.colors = nn.Conv2d(dimension, 12, 1).to(device)  # of the four quarters of a code's square
        counts = torch.ones(codes, device=device)
        counts[: self.kept] = torch.inf  # never too few
        self.usage = nn.ParameterDict({"counts": nn.Parameter(counts, False)})
        self.device, self.precision = device, precision

    def train(
        self,
        draw: Callable[[], Tensor],
        folder: Path,
        rng: torch.Generator,
        *,
        steps: int,
        rate: float = 1e-3,
        gan_from: float = 1.0,
        unjudged: int = 0,
    ) -> None:
        """Train, keep checkpoints in `folder`, write its weights.

        Args:
            draw: gives a batch (N, 3, H, W) in [-1, 1] of `rng`'s random numbers.
            gan_from: share of the steps before there is a discriminator; 1: there is none.
            unjudged: pictures of each batch, the first, that it does not see: it would have textures made up.

        From scratch the first tenth of the steps does without codes. New ones begin as the means of clusters
        of latents.
        """
        self.network.requires_grad_()
        codebook = self.network.codebook
        networks = [weight for weight in self.network.parameters() if weight is not codebook]
        # the codebook takes larger steps than the networks, or it lags behind the encoder
        groups: list[dict[str, Any]] = [
            {"params": networks, "factor": 1.0},
            {"params": list(self.colors.parameters()), "factor": 5.0},
            {"params": [codebook], "factor": 6.0},
        ]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.97))
        critic = torch.optim.Adam(self.discriminator.parameters(), lr=4e-4, betas=(0.5, 0.9))
        average = AveragedModel(self.network, avg_fn=_decayed)
        parts = {
            "network": self.network,
            "discriminator": self.discriminator,
            "colors": self.colors,
            "usage": self.usage,
            "average": average,
            "optimizer": optimizer,
            "critic": critic,
        }
        run = loop.Run(folder, steps, parts, rng)
        begin = 0 if self.kept else steps // 10
        for step in run:
            for group in optimizer.param_groups:
                slope = max(0.03, min(1, 2 * (1 - run.share)))
                group["lr"] = rate * group["factor"] * min(1, (step + 1) / 50) * slope
            if step == begin and self.kept < len(codebook):
                self._cluster([draw() for _ in range(_BANK)], rng)
                average.module.load_state_dict(self.network.state_dict())
            images = draw().to(self.device, memory_format=torch.channels_last)
            losses, latents = self._losses(
                images,
                earlier=self.earlier if step % _EARLIER == 1 else None,
                quantized=step >= begin,
                judged=slice(unjudged, None) if run.share >= gan_from else None,
                fooling=run.share >= gan_from + _HEAD_START,
            )
            if codebook.grad is not None:
                codebook.grad[: self.kept] = 0
            torch.nn.utils.clip_grad_norm_([weight for group in groups for weight in group["params"]], 1.0)
            optimizer.step()
            critic.step()
            average.update_parameters(self.network)
            if begin < step < 0.7 * steps and step % _REVIVED == 0:
                self._revive(latents, average, rng)
            run.report(**losses)
        tensors = average.module.state_dict()
        save_file(
            {name: tensor.half().contiguous().cpu() for name, tensor in tensors.items()}, folder / WEIGHTS
        )

    def _losses(
        self,
        images: Tensor,
        *,
        earlier: Vqgan | None,
        quantized: bool,
        judged: slice | None,
        fooling: bool,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of a batch into all that learns; the losses, and the encoder's latents.

        Args:
            earlier: whose codes of the pictures are painted, in place of the network's own.
            judged: of the batch, what the discriminator sees.
        """
        for part in (self.network, self.colors, self.discriminator):
            part.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(earlier is None), loop.autocast(self.device, self.precision):
            latents = _encoded(earlier or self.network, images)
        chosen, codes = latents, torch.zeros((), device=self.device)
        if earlier is not None:
            chosen = earlier.quantized(latents)
        elif quantized:
            chosen, codes = self._quantized(latents)
        with loop.autocast(self.device, self.precision):
            # taming's own forward: ours keeps too little for gradients of the weights
            made = self.network.decoder(self.network.post_quant_conv(chosen)).float()
        seen = made.detach().requires_grad_()
        losses = self._reconstruction(seen, images)
        (slope,) = torch.autograd.grad(torch.stack(list(losses.values())).sum(), seen)
        if judged is not None:
            losses["fooled"], losses["critic"], push = self._adversarial(seen[judged], images[judged])
            if fooling:
                # Esser et al., equation 7, with gradients at the picture in place of the last layer
                own = slope[judged]
                slope[judged] = own + _ADVERSARIAL * own.norm() / push.norm().clamp(min=1e-8) * push
        quarters = F.pixel_unshuffle(F.avg_pool2d(images, self.network.factor // 2), 2)
        losses["colors"] = (self.colors(chosen) - quarters).pow(2).mean()
        losses["codes"] = codes
        # the same as backward of both: the picture's gradient is there already
        ((made * slope).sum() + losses["colors"] + codes).backward()
        return losses, latents.detach()

    def _quantized(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents' codes, with the gradient of latents, and the loss that draws both together."""
        rows, table = latents.permute(0, 2, 3, 1), self.network.codebook
        with torch.no_grad():
            codes = _nearest(rows.flatten(0, 2), table).view(rows.shape[:3])
            counts = torch.bincount(codes.flatten(), minlength=len(table))
            self.usage["counts"].mul_(0.99).add_(counts)
        found = self.network.lookup(codes)
        loss = (found - latents.detach()).pow(2).mean() + _COMMITMENT * (latents - found.detach()).pow(
            2
        ).mean()
        return latents + (found - latents).detach(), loss

    def _reconstruction(self, made: Tensor, images: Tensor) -> dict[str, Tensor]:
        chroma = (made - made.mean(1, keepdim=True)) - (images - images.mean(1, keepdim=True))
        return {
            "l1": (made - images).abs().mean(),
            "l2": _SQUARES * (made - images).pow(2).mean(),
            "chroma": _CHROMA * chroma.abs().mean(),  # colors come late without it
            "unlike": _PERCEPTUAL * self.likeness(made, images),
        }

    def _adversarial(self, made: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How little the discriminator is fooled, its own loss, and the gradient of what would fool it."""
        with loop.autocast(self.device, self.precision):
            verdict = -self.discriminator(made).float().mean()
            (push,) = torch.autograd.grad(verdict, made)
            real, false = self.discriminator(images).float(), self.discriminator(made.detach()).float()
        hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + false).mean())
        hinge.backward()  # type: ignore[no-untyped-call]
        return verdict, hinge, push

    @torch.no_grad()
    def _cluster(self, batches: list[Tensor], rng: torch.Generator) -> None:
        """Make the codes that do not stay the means of clusters of latents (k-means)."""
        with loop.autocast(self.device, self.precision):
            found = [_encoded(self.network, batch.to(self.device)) for batch in batches]
        rows = torch.cat([latents.permute(0, 2, 3, 1).flatten(0, 2) for latents in found])
        table = self.network.codebook
        more = len(table) - self.kept
        table[self.kept :] = rows[_some(len(rows), more, rng)]
        for _ in range(6):
            nearest = _nearest(rows, table)
            counts = torch.bincount(nearest, minlength=len(table))[:, None]
            sums = torch.zeros_like(table).index_add_(0, nearest, rows)
            means = sums / counts.clamp(min=1)
            means = torch.where(counts > 0, means, rows[_some(len(rows), len(table), rng)])
            table[self.kept :] = means[self.kept :]

    @torch.no_grad()
    def _revive(self, latents: Tensor, average: AveragedModel, rng: torch.Generator) -> None:
        """Move codes that are hardly used to where latents are."""
        dead = (self.usage["counts"] < 0.3).nonzero().flatten()[:200]
        rows = latents.permute(0, 2, 3, 1).flatten(0, 2)
        places = rows[_some(len(rows), len(dead), rng)]
        noise = 0.01 * torch.randn(places.shape, generator=rng).to(self.device)
        for table in (self.network.codebook, average.get_parameter(f"module.{_TABLE}")):
            table[dead] = places + noise
        self.usage["counts"][dead] = 1.0


def _decayed(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """An exponential moving average that forgets its first steps sooner."""
    return average.lerp(current, 1 - min(0.995, float(count) / (float(count) + 20)))


def _encoded(network: Vqgan, images: Tensor) -> Tensor:
    """(N, 3, H, W) in [-1, 1] -> latents (N, D, h, w) before they become codes"""
    assert network.encoder is not None
    assert network.quant_conv is not None
    latents: Tensor = network.quant_conv(network.encoder(images)).float()
    return latents


def _nearest(rows: Tensor, table: Tensor) -> Tensor:
    """The codes nearest to latents: (N, D), (K, D) -> (N,)"""
    half = table.pow(2).sum(1) / 2
    return torch.cat([(some @ table.T - half).argmax(1) for some in torch.split(rows, _ROWS)])


def _some(of: int, count: int, rng: torch.Generator) -> Tensor:
    return torch.randint(of, (count,), generator=rng)


if __name__ == "__main__":
    main()
