"""VQGANs: cards that describe them, and `load`. Reading cards needs no torch."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, Field, model_validator

from models.weights_io.card import CardFolder, Download, how_to_fetch

if TYPE_CHECKING:
    from models.networks.dalle_model import Dalle
    from models.networks.prior import Prior
    from models.networks.transformer import Transformer
    from models.networks.vqgan.vqgan_model import Vqgan

OWN_CARD = "vqgan.toml"
_CARDS = CardFolder(Path(__file__).parent / "cards", OWN_CARD)


class UnknownVqgan(LookupError):
    """No card has that name."""


class Ddconfig(BaseModel, frozen=True, extra="forbid"):
    """The encoder and the decoder, in the words of taming-transformers' configs."""

    double_z: Literal[False] = False
    z_channels: int
    resolution: int  # pixels of the training pictures; decides where attention sits
    in_channels: int = 3
    out_ch: int = 3
    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    dropout: float = 0.0


class VqganConfig(BaseModel, frozen=True):
    """The `params` of a taming config; those of training, such as `lossconfig`, are passed over."""

    embed_dim: int
    n_embed: int
    ddconfig: Ddconfig

    @model_validator(mode="before")
    @classmethod
    def _from_taming(cls, config: Any) -> Any:
        """Peel off what taming's files wrap the parameters in."""
        for key in ("model", "params", "first_stage_config", "params"):
            if isinstance(config, dict) and key in config:
                config = config[key]
        return config

    @property
    def factor(self) -> int:
        """Pixels along the side of one code."""
        return 1 << (len(self.ddconfig.ch_mult) - 1)


class WeightsFile(BaseModel, frozen=True, extra="forbid"):
    """A safetensors file, and what its bytes must be."""

    file: str  # a relative path starts at the folder of weights
    sha256: str | None = None  # none: not pinned


class TransformerFile(WeightsFile, frozen=True, extra="forbid"):
    """A transformer over a VQGAN's codes, as `models.networks.transformer` has it."""

    width: int
    depth: int
    heads: int
    length: int  # of its longest sequence, in tokens

    @property
    def weight_bytes(self) -> int:
        """About what its weights take in fp32, without its tables of tokens."""
        return 4 * 12 * self.depth * self.width**2

    @property
    def cache_bytes(self) -> int:
        """What it remembers of one sequence."""
        return 4 * 2 * self.depth * self.width * self.length


class DalleFile(TransformerFile, frozen=True, extra="forbid"):
    """One that draws texts, as `models.networks.dalle_model` has it."""

    clip: str  # the card of the CLIP that reads texts for it


class Net2NetFile(TransformerFile, frozen=True, extra="forbid"):
    """One that draws classes, or anything: taming-transformers' Net2NetTransformer."""

    classes: int = 0  # none: it was trained without, and begins with token 0


class Card(BaseModel, frozen=True, extra="forbid"):
    """What a VQGAN is and where its files are."""

    name: str
    description: str
    kind: Literal["VQModel", "GumbelVQ"] = "VQModel"
    config: VqganConfig
    channels_per_group: int | None = Field(
        None, description="of each group normalization; none: 32 groups, as taming has it"
    )
    weights: WeightsFile
    downloads: tuple[Download, ...] = ()  # checkpoints to convert; the first that answers is taken
    prior: WeightsFile | None = None  # text embedding of the first guide -> codes to start from
    dalle: DalleFile | None = None  # stands on the prior
    transformer: Net2NetFile | None = None
    license: str
    source: str
    attributions: tuple[str, ...] = ()
    drawing: dict[str, Any] = {}  # defaults of the generators: width, height, steps and their options


def available(weights: Path | None = None) -> list[str]:
    """The names of the cards; with a user's own among the weights."""
    return _CARDS.names(weights)


def read_card(name: str, weights: Path | None = None) -> Card:
    """The card of a VQGAN. Its `config` may be a table, or the name of a YAML or TOML file beside the card.

    Args:
        weights: where a user's own cards lie: `<name>/vqgan.toml`.

    Raises:
        UnknownVqgan: no card has that name.
    """
    path, fields = _CARDS.find(name, weights), _CARDS.read(name, weights)
    if path is None or fields is None:
        raise UnknownVqgan(f"no VQGAN {name!r}; there are {', '.join(available(weights))}")
    if isinstance(fields["config"], str):
        fields["config"] = read_config(path.parent / fields["config"])
    return Card(**fields)


def read_config(path: Path) -> VqganConfig:
    """The config of a file in taming's layout, as YAML (JSON is YAML) or TOML."""
    text = path.read_text()
    return VqganConfig.model_validate(tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text))


def load(name: str, weights: Path, device: str = "cpu", dtype: str = "fp32") -> "Vqgan":
    """Load a VQGAN. Slow; imports torch.

    Args:
        dtype: bf16 of the decoder where it is bf16, else fp32: in fp16 it would overflow.

    Raises:
        UnknownVqgan: no card has that name.
        models.weights_io.WeightsMissing: the file is not there.
        models.weights_io.WeightsCorrupt: its SHA-256 is not the card's.
        models.networks.vqgan.vqgan_model.WeightsMismatch: its tensors are not those of the card's config.
    """
    import torch

    from models.networks.vqgan.vqgan_model import Vqgan
    from models.weights_io import load_tensors

    card = read_card(name, weights)
    tensors = load_tensors(_find(card, card.weights, weights), card.weights.sha256)
    vqgan = Vqgan(card.config, card.kind, card.channels_per_group)
    vqgan.read(tensors)
    if dtype == "bf16":
        vqgan.halve()
    # the demo's decoder takes two thirds of the time so on a CPU
    return vqgan.to(memory_format=torch.channels_last).to(device)


def load_dalle(name: str, weights: Path, device: str = "cpu", dtype: str = "fp32") -> "Dalle | None":
    """Load what draws texts on the codes of a VQGAN's card; none: the card has none. Errors as `load`.

    Args:
        dtype: of its transformer: bf16, else fp32.
    """
    import torch

    from models.networks.dalle_model import Dalle
    from models.weights_io import load_tensors

    card = read_card(name, weights)
    if card.dalle is None:
        return None
    tensors = load_tensors(_find(card, card.dalle, weights), card.dalle.sha256)
    dalle = Dalle.read(tensors, card.dalle.heads).to(device)
    if dtype == "bf16":
        dalle.transformer.to(torch.bfloat16)
    return dalle


def load_transformer(
    name: str, weights: Path, device: str = "cpu", dtype: str = "fp32"
) -> "Transformer | None":
    """Load the transformer of a VQGAN's card; none: the card has none. Errors and `dtype` as `load_dalle`."""
    import torch

    from models.networks.transformer import Transformer
    from models.weights_io import load_tensors

    card = read_card(name, weights)
    if card.transformer is None:
        return None
    tensors = load_tensors(_find(card, card.transformer, weights), card.transformer.sha256)
    transformer = Transformer.read(tensors, card.transformer.heads).to(device)
    return transformer.to(torch.bfloat16) if dtype == "bf16" else transformer


def load_prior(name: str, weights: Path, device: str = "cpu") -> "Prior | None":
    """Load the prior of a VQGAN's card; none: the card has none. Errors as `load`."""
    from models.networks.prior import Prior
    from models.weights_io import load_tensors

    card = read_card(name, weights)
    if card.prior is None:
        return None
    return Prior.read(load_tensors(_find(card, card.prior, weights), card.prior.sha256)).to(device)


def _find(card: Card, part: WeightsFile, weights: Path) -> Path:
    """Raises WeightsMissing, with what to do, if the file is not there."""
    from models.weights_io import WeightsMissing

    path = weights / part.file
    if not path.is_file():
        raise WeightsMissing(f"weights file {path} of {card.name} is not there; {how_to_fetch(card.name)}")
    return path
