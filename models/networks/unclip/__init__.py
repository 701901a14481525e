"""unCLIPs in diffusers' layout, such as Karlo: cards that describe them, and `load`. Cards need no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from models.weights_io.card import CardFolder, Download, Model, how_to_fetch

if TYPE_CHECKING:
    from models.networks.unclip.unclip_model import Unclip

OWN_CARD = "unclip.toml"
_CARDS = CardFolder(Path(__file__).parent / "cards", OWN_CARD)

INDEX = "model_index.json"

_DIFFUSERS = ("config.json", "diffusion_pytorch_model.safetensors")
_TRANSFORMERS = ("config.json", "model.safetensors")
_SCHEDULER = ("scheduler_config.json",)
Network = Literal[
    "prior", "decoder", "text_proj", "super_res_first", "super_res_last", "text_encoder", "image_encoder"
]
NETWORKS: dict[Network, tuple[str, ...]] = {
    "prior": _DIFFUSERS,
    "decoder": _DIFFUSERS,
    "text_proj": _DIFFUSERS,
    "super_res_first": _DIFFUSERS,
    "super_res_last": _DIFFUSERS,
    "text_encoder": _TRANSFORMERS,
    "image_encoder": _TRANSFORMERS,
}
"""The networks that diffusers' two pipelines are made of, and the files of each."""
_BESIDE: dict[Network, dict[str, tuple[str, ...]]] = {
    "prior": {"prior_scheduler": _SCHEDULER},
    "decoder": {"decoder_scheduler": _SCHEDULER},
    "super_res_first": {"super_res_scheduler": _SCHEDULER},
    "text_encoder": {"tokenizer": ("tokenizer_config.json",)},
    "image_encoder": {"feature_extractor": ("preprocessor_config.json",)},
}
TOKENIZER_TOO = tuple(
    f"tokenizer/{file}" for file in ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer.json")
)
"""Some tokenizers have these."""
_REQUIRED: tuple[Network, ...] = ("decoder", "text_proj", "super_res_first", "super_res_last", "text_encoder")


class UnknownUnclip(LookupError):
    """No card has that name."""


class Card(BaseModel, frozen=True, extra="forbid"):
    """What a model is, and how large."""

    name: str
    description: str
    license: str
    source: str
    attributions: tuple[str, ...] = ()
    downloads: tuple[Download, ...] = ()  # repositories of the hub; the first that answers is taken
    side: int  # of its pictures, in pixels
    bytes_per_pixel: int  # of its pictures, that a step takes in fp32
    parameters: dict[Network, int]  # of each of its networks, which is a folder of that name

    @property
    def files(self) -> tuple[str, ...]:
        """What it is loaded from, beside what some tokenizers have: paths in its folder, the index last."""
        folders: dict[str, tuple[str, ...]] = {part: NETWORKS[part] for part in self.parameters}
        for part in self.parameters:
            folders |= _BESIDE.get(part, {})
        return (*(f"{folder}/{file}" for folder, files in folders.items() for file in files), INDEX)


@dataclass(frozen=True)
class Parts:
    """What is drawn with: each part is of the first card that has it.

    Karlo's two models have all parts in common but the prior, which makes a picture's embedding of a text,
    and the image encoder, which makes it of a picture.
    """

    cards: tuple[Card, ...]

    @cached_property
    def owners(self) -> dict[Network, Card]:
        """The card of each network."""
        return {part: card for card in reversed(self.cards) for part in card.parameters}

    @property
    def model(self) -> Model:
        """As clients are told of it."""
        return Model(
            name=", ".join(card.name for card in self.cards),
            description=" ".join(card.description for card in self.cards),
            license=" AND ".join(dict.fromkeys(card.license for card in self.cards)),
            source=", ".join(card.source for card in self.cards),
            attributions=tuple(dict.fromkeys(line for card in self.cards for line in card.attributions)),
        )

    @property
    def reads_texts(self) -> bool:
        return "prior" in self.owners

    @property
    def reads_pictures(self) -> bool:
        return "image_encoder" in self.owners

    @property
    def side(self) -> int:
        """Of its pictures, in pixels."""
        return self.cards[0].side

    def weight_bytes(self, dtype: str) -> int:
        """What all networks take."""
        numbers = sum(card.parameters[part] for part, card in self.owners.items())
        return numbers * _bytes(dtype)

    def bytes_per_pixel(self, dtype: str) -> float:
        """What a step takes of the device's memory."""
        return max(card.bytes_per_pixel for card in self.cards) * _bytes(dtype) / 4


def available(weights: Path | None = None) -> list[str]:
    """The names of the cards; with a user's own among the weights."""
    return _CARDS.names(weights)


def read_card(name: str, weights: Path | None = None) -> Card:
    """The card of a model.

    Args:
        weights: where a user's own cards lie: `<name>/unclip.toml`.

    Raises:
        UnknownUnclip: no card has that name.
    """
    if fields := _CARDS.read(name, weights):
        return Card(**fields)
    raise UnknownUnclip(f"no unCLIP {name!r}; there are {', '.join(available(weights))}")


def read_parts(names: Sequence[str], weights: Path | None = None) -> Parts:
    """The parts of the models of these names.

    Raises:
        UnknownUnclip: one of them has no card.
    """
    return Parts(tuple(read_card(name, weights) for name in names))


def load(names: Sequence[str], weights: Path, device: str = "cpu", dtype: str = "fp32") -> "Unclip":
    """Load the parts of models. Slow; imports torch, diffusers and transformers.

    Args:
        dtype: of all networks: fp32, bf16 or fp16.

    Raises:
        UnknownUnclip: a name has no card.
        models.weights_io.WeightsMissing: a file is not there.
        models.weights_io.WeightsCorrupt: it is not what it was when it came here.
        models.weights_io.WeightsUnusable: it cannot be read, the parts do not go together, or diffusers is
            not installed.
    """
    from models.weights_io import WeightsMissing, WeightsUnusable

    parts = read_parts(names, weights)
    if absent := [part for part in _REQUIRED if part not in parts.owners]:
        raise WeightsUnusable(f"{' and '.join(names)} have no {', '.join(absent)}")
    for card in parts.cards:
        for part in card.parameters.keys() & parts.owners.keys():
            owner = parts.owners[part]
            if (card.parameters[part], card.side) != (owner.parameters[part], owner.side):
                raise WeightsUnusable(f"{card.name} and {owner.name} do not go together: {part} differs")
    for part, card in parts.owners.items():
        for file in NETWORKS[part]:
            path = weights / card.name / part / file
            if not path.is_file():
                raise WeightsMissing(f"weights file {path} is not there; {how_to_fetch(card.name)}")
    try:
        from models.networks.unclip.unclip_model import Unclip
    except ImportError as error:
        raise WeightsUnusable(
            f"unclip needs a package that is not installed: {error}; install clipcanvas[unclip]"
        ) from error
    folders = {part: weights / card.name for part, card in parts.owners.items()}
    return Unclip.read(folders, device, dtype)


def _bytes(dtype: str) -> int:
    return 4 if dtype == "fp32" else 2
