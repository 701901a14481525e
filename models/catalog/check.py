"""Whether weights fit the network that they are said to be of: by names and shapes, before they are loaded.

Networks are built without values, and of the weights only the header is read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from models.networks.min_dalle import Card
from models.networks.vqgan import VqganConfig
from models.weights_io import WeightsUnusable, differences

if TYPE_CHECKING:
    from torch import Tensor


def check_vqgan(
    weights: Path,
    config: VqganConfig,
    kind: str,
    codes: tuple[int, int],
    source: Path,
    channels_per_group: int | None = None,
) -> None:
    """Raises WeightsUnusable unless the tensors are those of the configuration.

    Args:
        codes: how many there are, and of how many numbers each.
        channels_per_group: as of `models.networks.vqgan.Card`.
    """
    import torch

    from models.networks.vqgan.vqgan_model import Vqgan, WeightsMismatch

    expected = (config.n_embed, config.embed_dim)
    if codes != expected:  # the names of published files lie about that
        raise WeightsUnusable(
            f"{source} has {codes[0]} codes of {codes[1]} numbers, and its configuration says "
            f"{expected[0]} of {expected[1]}"
        )
    with torch.device("meta"):
        network = Vqgan(config, "GumbelVQ" if kind == "GumbelVQ" else "VQModel", channels_per_group)
    try:
        network.read(_without_values(weights))
    except WeightsMismatch as error:
        raise WeightsUnusable(f"{source} is not what its configuration says: {error}") from error


def check_min_dalle(weights: Path, card: Card, kind: str, source: Path) -> None:
    """Raises WeightsUnusable unless the tensors are those of the card's encoder or decoder."""
    import torch

    from models.networks.min_dalle.min_dalle_model import Decoder, Encoder, fitted

    with torch.device("meta"):
        network = Decoder(card) if kind == "DalleBartDecoder" else Encoder(card)
    fitted(network, _without_values(weights), source)


def check_clip(folder: Path, tower: Path, source: Path) -> None:
    """Raises WeightsUnusable unless the tensors in a folder are those of the configuration beside them.

    Args:
        tower: the folder with the config.json of a text tower that transformers build.
    """
    import open_clip
    import torch
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    from models.clip.encoder import text_tower

    try:
        with torch.device("meta"):
            network = open_clip.create_model(
                f"local-dir:{folder}", load_weights=False, device="meta", **text_tower(folder, tower)
            )
        state = convert_state_dict(network, _without_values(next(folder.glob("*.safetensors"))))
        if "positional_embedding" in state and not hasattr(network, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)
    except ImportError as error:
        raise WeightsUnusable(f"{source} needs a package that is not installed: {error}") from error
    except Exception as error:  # open_clip and timm raise many kinds
        raise WeightsUnusable(f"{source} has no configuration that open_clip builds: {error}") from error
    expected: Mapping[str, Tensor] = network.state_dict()
    # open_clip fits these to the network as it loads them
    loose = ("positional_embedding", "logit_scale", "logit_bias", "position_ids", "pos_embed")
    if problems := differences(state, expected, loose):
        raise WeightsUnusable(f"{source} is not what its configuration says: {problems}")


def _without_values(weights: Path) -> "dict[str, Tensor]":
    import torch
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        names = file.keys()
        return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}
