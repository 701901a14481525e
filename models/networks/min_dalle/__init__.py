"""DALL-E mini and mega, as min-dalle has them: cards, and `load`. Reading cards needs no torch.

Dayma et al. 2021, https://github.com/borisdayma/dalle-mini; they reproduce OpenAI's DALL-E, and are not it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from models.networks.vqgan import VqganConfig
from models.weights_io.card import CardFolder, Download, how_to_fetch

if TYPE_CHECKING:
    from models.networks.min_dalle.min_dalle_model import MinDalle

OWN_CARD = "min-dalle.toml"
_CARDS = CardFolder(Path(__file__).parent / "cards", OWN_CARD)

ENCODER, DECODER, DETOKER = "encoder.safetensors", "decoder.safetensors", "detoker.safetensors"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
FILES = {
    VOCABULARY: "vocab{}.json",
    MERGES: "merges{}.txt",
    ENCODER: "encoder{}.pt",
    DECODER: "decoder{}.pt",
    DETOKER: "detoker.pt",
}
"""The files of a model, and what each is made of: its name in the repository, with the card's `suffix`."""


class UnknownMinDalle(LookupError):
    """No card has that name."""


class Card(BaseModel, frozen=True, extra="forbid"):
    """What a model is, and how large."""

    name: str
    description: str
    license: str
    source: str
    attributions: tuple[str, ...] = ()
    downloads: tuple[Download, ...] = ()  # repositories of the hub; the first that answers is taken
    suffix: str = ""  # of the names of its files there

    vocabulary: int  # tokens of texts
    words: int  # of the longest text, in tokens
    width: int
    middle: int  # of the feed-forward parts
    depth: int  # layers of the encoder, and of the decoder
    heads: int
    config: VqganConfig  # of the VQGAN whose codes it expects

    @property
    def codes(self) -> int:
        """Of one picture."""
        return (self.config.ddconfig.resolution // self.config.factor) ** 2

    def weight_bytes(self, dtype: str) -> int:
        """About what the encoder and the decoder take."""
        layer = 4 * self.width**2 + 3 * self.width * self.middle
        layers = self.depth * (2 * layer + 4 * self.width**2)  # the decoder attends to the text as well
        tables = self.width * (self.vocabulary + 2 * self.config.n_embed)
        return _bytes(dtype) * (layers + tables)

    def cache_bytes(self, dtype: str) -> int:
        """What the decoder remembers of one picture."""
        return _bytes(dtype) * 2 * self.depth * self.width * self.codes


def available(weights: Path | None = None) -> list[str]:
    """The names of the cards; with a user's own among the weights."""
    return _CARDS.names(weights)


def read_card(name: str, weights: Path | None = None) -> Card:
    """The card of a model.

    Args:
        weights: where a user's own cards lie: `<name>/min-dalle.toml`.

    Raises:
        UnknownMinDalle: no card has that name.
    """
    if fields := _CARDS.read(name, weights):
        return Card(**fields)
    raise UnknownMinDalle(f"no min-dalle {name!r}; there are {', '.join(available(weights))}")


def load(name: str, weights: Path, device: str = "cpu", dtype: str = "fp32") -> "MinDalle":
    """Load a model. Slow; imports torch.

    Args:
        dtype: bf16, else fp32.

    Raises:
        UnknownMinDalle: no card has that name.
        models.weights_io.WeightsMissing: a file is not there.
        models.weights_io.WeightsCorrupt: it is not what it was when it came here.
        models.weights_io.WeightsUnusable: it cannot be read, or is not what the card says.
    """
    from models.networks.min_dalle.min_dalle_model import MinDalle
    from models.weights_io import WeightsMissing

    card = read_card(name, weights)
    for file in FILES:
        if not (weights / name / file).is_file():
            raise WeightsMissing(f"{weights / name / file} is not there; {how_to_fetch(name)}")
    return MinDalle.read(card, weights / name, dtype).to(device)


def _bytes(dtype: str) -> int:
    return 2 if dtype == "bf16" else 4
