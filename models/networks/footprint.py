"""Memory that networks take, computed from cards: nothing is loaded, torch is not needed."""

import importlib.util
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from models.clip.cards import CONFIG, ClipCard
from models.networks.vqgan import VqganConfig

LOW_MEMORY_VIEWS = 4
"""Views that a drawing with low memory encodes at once."""

FLOAT = 4  # bytes


def decoder_bytes(config: VqganConfig, dtype: str, *, low_memory: bool = False) -> float:
    """What a VQGAN's decoder keeps of one picture, in bytes per pixel: the inputs of its normalizations.

    Of an attention also its queries, keys, values and output. With low memory, of a block its input alone.
    """
    floats = 0.0
    for kind, inputs, outputs, area in _decoder(config):
        match kind:
            case "block":
                floats += (inputs if low_memory else inputs + outputs) * area
            case "attention":
                floats += 5 * inputs * area
    # the end, and the way back's first; with low memory, of its largest block
    floats += (6.45 if low_memory else 5.5) * config.ddconfig.ch * config.ddconfig.ch_mult[0]
    return floats * (FLOAT / 2 if dtype == "bf16" else FLOAT)


def vqgan_weights(config: VqganConfig) -> int:
    """About the bytes of a VQGAN: its decoder twice, since the encoder is no larger."""
    count = 0
    for kind, inputs, outputs, _ in _decoder(config):
        match kind:
            case "block":
                count += 9 * outputs * (inputs + outputs) + (inputs * outputs if inputs != outputs else 0)
            case "attention":
                count += 4 * inputs**2
            case _:
                count += 9 * inputs * outputs
    return FLOAT * (2 * count + config.n_embed * config.embed_dim)


def _decoder(config: VqganConfig) -> list[tuple[str, int, int, float]]:
    """The layers of taming-transformers' decoder: kind, channels in and out, places as a share of pixels."""
    network = config.ddconfig
    channels = network.ch * network.ch_mult[-1]
    area = 1 / config.factor**2
    side = network.resolution // config.factor
    layers = [
        ("convolution", network.z_channels, channels, area),
        ("block", channels, channels, area),
        ("attention", channels, channels, area),
        ("block", channels, channels, area),
    ]
    for level in reversed(range(len(network.ch_mult))):
        for _ in range(network.num_res_blocks + 1):
            layers.append(("block", channels, network.ch * network.ch_mult[level], area))
            channels = network.ch * network.ch_mult[level]
            if side in network.attn_resolutions:
                layers.append(("attention", channels, channels, area))
        if level:
            area, side = 4 * area, 2 * side
            layers.append(("convolution", channels, channels, area))
    return layers


def guide_memory(card: ClipCard, weights: Path) -> tuple[int, int, int]:
    """What a CLIP takes in fp32: the bytes of its weights, those that one view keeps, and the view's side.

    Of a CLIP without a card: reckoned from its configuration where that is on this machine and describes a
    ViT; else taken to be a ViT-L/14, with views by their pixels.

    Args:
        weights: where relative folders start.
    """
    side = card.image_size
    if card.weight_bytes and card.view_bytes and side:
        return card.weight_bytes, card.view_bytes, side
    config = _read_config(card, weights)
    vision = config.get("vision_cfg", {})
    side = side or vision.get("image_size", 224)
    try:
        text = config["text_cfg"]
        depth, width, tokens = vision["layers"], vision["width"], (side // vision["patch_size"]) ** 2 + 1
        values = 12 * depth * width**2 + 12 * text["layers"] * text["width"] ** 2
        values += text.get("vocab_size", 49408) * text["width"]
        return FLOAT * values, _vit_view(depth, width, tokens), side
    except (KeyError, TypeError, ZeroDivisionError):
        return 1_710_500_000, round(_vit_view(24, 1024, 257) * (side / 224) ** 2), side


def _vit_view(depth: int, width: int, tokens: int) -> int:
    # of each layer: the inputs of both norms, queries, keys, values, what is attended to, and eight for the
    # perceptron of four times the width: with QuickGELU, which keeps its input and the sigmoid
    return round(FLOAT * tokens * width * 15.2 * depth)


def _read_config(card: ClipCard, weights: Path) -> Mapping[str, Any]:
    """What open_clip builds a CLIP by; empty: it cannot be known before the CLIP is fetched."""
    if card.is_here(weights) or card.scheme == "local-dir":
        config = _read_json(card.folder(weights) / CONFIG).get("model_cfg")
        return config if isinstance(config, dict) else {}
    package = importlib.util.find_spec("open_clip")  # found, not imported: that would take torch
    if card.scheme != "open_clip" or package is None or package.origin is None:
        return {}
    return _read_json(Path(package.origin).parent / "model_configs" / f"{card.place.partition('/')[0]}.json")


@lru_cache(maxsize=64)
def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
        return values if isinstance(values, dict) else {}
    except (OSError, ValueError):
        return {}
