"""The catalog: every model that has a card, and whether its weights are here. Needs no torch.

A model is described in one place, its card; here the cards of all kinds are looked at alike.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from models.catalog.memory import predict, serving_memory
from models.clip import UnknownClip, cards
from models.clip.cards import CLIP_FILE, CONFIG, ClipCard
from models.generators import complete
from models.networks import min_dalle, unclip, vqgan
from models.networks.footprint import guide_memory, vqgan_weights
from models.requests.network_names import NetworkNames
from models.requests.request import Prompt
from models.weights_io import read_sums, recorded_sha256
from models.weights_io.card import WEIGHTS, Download


class UnknownModel(LookupError):
    """No card has that name."""


@dataclass(frozen=True)
class Entry:
    """A model of the catalog.

    Attributes:
        weights: where relative folders start.
    """

    card: ClipCard | vqgan.Card | min_dalle.Card | unclip.Card
    weights: Path

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def kind(self) -> Literal["clip", "vqgan", "min-dalle", "unclip"]:
        match self.card:
            case ClipCard():
                return "clip"
            case vqgan.Card():
                return "vqgan"
            case min_dalle.Card():
                return "min-dalle"
            case _:
                return "unclip"

    @property
    def folder(self) -> Path:
        """Where its files lie, or will."""
        if isinstance(self.card, ClipCard):
            return self.card.folder(self.weights)
        if isinstance(self.card, min_dalle.Card | unclip.Card):
            return self.weights / self.name
        return (self.weights / self.card.weights.file).parent

    @property
    def downloads(self) -> tuple[Download, ...]:
        """Where it can be fetched; those that only open_clip knows are not among them."""
        if not self.card.downloads and isinstance(self.card, ClipCard) and self.card.scheme == "hf-hub":
            return (Download(hub=self.card.place),)
        return self.card.downloads

    @property
    def is_here(self) -> bool:
        """Whether its weights lie on this machine."""
        return all(path.is_file() for path in self.files)

    @property
    def files(self) -> dict[Path, str | None]:
        """The files that it is loaded from, and the SHA-256 that each must have; none: any is taken."""
        if isinstance(self.card, min_dalle.Card | unclip.Card):
            several = min_dalle.FILES if isinstance(self.card, min_dalle.Card) else self.card.files
            paths = [self.folder / file for file in several]
            return {path: recorded_sha256(path) for path in paths}
        if isinstance(self.card, vqgan.Card):
            parts = [part for part in (self.card.weights, self.card.prior) if part is not None]
            known = {self.weights / part.file: part.sha256 for part in parts}
            return {path: sha256 or recorded_sha256(path) for path, sha256 in known.items()}
        if shipped := self.card.paths(self.weights):
            return {**shipped}
        stated: dict[str, str | None] = {**read_sums(self.folder)}
        if not stated:
            found = [path.name for path in self.folder.glob("*.safetensors")] or [CLIP_FILE]
            stated = dict.fromkeys(sorted(found))
        return {self.folder / file: sha256 for file, sha256 in ({CONFIG: None} | stated).items()}

    @property
    def memory(self) -> int:
        """Bytes that it takes: a CLIP to serve; others to draw with their and the guides' defaults."""
        if isinstance(self.card, ClipCard):
            return serving_memory(self.card, self.weights, "fp32")
        prompt = Prompt(text="a cat")
        if isinstance(self.card, min_dalle.Card):
            names, generator = NetworkNames(min_dalle=self.name, weights=self.weights), "min_dalle"
        elif isinstance(self.card, unclip.Card):
            names, generator = NetworkNames(unclip=(self.name,), weights=self.weights), "unclip"
            if "prior" not in self.card.parameters:
                prompt = Prompt(target="a picture")
        else:
            names, generator = NetworkNames(vqgan=self.name, weights=self.weights), "vqgan_clip"
        request = complete(names, generator=generator, prompts=(prompt,))
        return predict(request, names, low_memory=False)

    def describe(self) -> dict[str, Any]:
        """All that is known, for JSON."""
        card = self.card
        told: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "description": card.description,
            "license": card.license,
            "attributions": list(card.attributions),
            "source": card.source,
            "here": self.is_here,
            "folder": str(self.folder),
            "memory": self.memory,
            "downloads": [
                {"place": item.place, **item.model_dump(exclude={"hub", "url"})} for item in self.downloads
            ],
            "files": [
                {
                    "path": str(path),
                    "sha256": sha256,
                    "bytes": path.stat().st_size if path.is_file() else None,
                }
                for path, sha256 in self.files.items()
            ],
        }
        if isinstance(card, ClipCard):
            sizes = ("embedding_dim", "image_size", "context_length")
            told |= {key: asdict(card)[key] for key in sizes}
            return told | {"weight_bytes": guide_memory(card, self.weights)[0]}
        if isinstance(card, unclip.Card):
            return told | {"pixels": card.side, "weight_bytes": unclip.Parts((card,)).weight_bytes("fp32")}
        told |= {
            "codes": card.config.n_embed,
            "pixels_per_code": card.config.factor,
            "weight_bytes": vqgan_weights(card.config),
        }
        if isinstance(card, vqgan.Card):
            return told | {"quantizer": card.kind}
        return told | {"weight_bytes": told["weight_bytes"] + card.weight_bytes("fp32")}


def entries(weights: Path = WEIGHTS) -> list[Entry]:
    """All models that have a card, CLIPs first."""
    kinds = (cards, vqgan, min_dalle, unclip)
    return [find(name, weights) for kind in kinds for name in kind.available(weights)]


def find(name: str, weights: Path = WEIGHTS) -> Entry:
    """The model of that name; a CLIP that has no card may be named by its source.

    Raises:
        UnknownModel: there is none.
    """
    if name in vqgan.available(weights):
        return Entry(vqgan.read_card(name, weights), weights)
    if name in min_dalle.available(weights):
        return Entry(min_dalle.read_card(name, weights), weights)
    if name in unclip.available(weights):
        return Entry(unclip.read_card(name, weights), weights)
    try:
        return Entry(cards.find_card(name, weights), weights)
    except UnknownClip:
        raise UnknownModel(
            f"no model {name!r}; `clipcanvas models list` says what there is, and "
            "hf-hub:OWNER/NAME and open_clip:ARCHITECTURE/TAG are taken, too"
        ) from None
