"""How much of a device's memory a drawing takes, reckoned from cards: nothing is loaded, torch not needed.

What counts is what a step keeps for its way back: the drawer's activations, by pixel, and those of each
guide, by view. `python -m benchmarks.memory` measures the terms; cards hold the guides'.
"""

import importlib.util
import json
from bisect import bisect_right
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.clip.cards import CONFIG, ClipCard, find_card
from models.generators import find
from models.networks.vqgan import VqganConfig, read_card
from models.requests.options import DrawingOptions
from models.requests.request import GenerationRequest

if TYPE_CHECKING:
    from models.networks.shared_networks import NetworkNames

GIB = 2**30

FRUGAL_VIEWS = 4
"""Views that a frugal drawing encodes at once."""

RUNTIME = 7 * 2**27
"""Bytes that a worker takes before any network: its libraries, or on a GPU the context and the kernels."""

HEADROOM = 1.2
"""Of what a step keeps: for workspaces of kernels, and for what lies unused between blocks of memory."""

_FLOAT = 4  # bytes
_HALF = 0.6  # of a guide in bf16 or fp16, beside fp32: what norms and biases keep stays fp32
_PICTURE_FLOATS = 24  # per pixel: the losses on the picture itself, its gradient, and the copies on the way
_SEEN_FLOATS = 8  # per pixel and view: a method may copy the picture for each view, and again on the way back
_VIEW_FLOATS = 24  # per value of a view: as it is cut, filtered and colored
_COMPARED = 1.5  # of the candidates of a start: what decoder and CLIP take as they are compared


def predict(request: GenerationRequest, names: "NetworkNames", *, frugal: bool) -> int:
    """Bytes that a worker takes to draw; several pictures are drawn one after the other.

    Args:
        frugal: as of `ImageGenerator.generate`.
    """
    module = find(request.generator)
    profile = module.profile(names)
    pixels = request.width * request.height
    per_pixel = profile.bytes_per_pixel
    if frugal and profile.frugal_bytes_per_pixel is not None:
        per_pixel = profile.frugal_bytes_per_pixel
    step = pixels * per_pixel
    guides = [guide_memory(find_card(name, names.weights), names.weights) for name in names.clips]
    vqgan = read_card(names.vqgan, names.weights).config
    share = 1.0 if names.dtype == "fp32" else _HALF
    weights = vqgan_weights(vqgan) + share * sum(weight for weight, _, _ in guides)
    loaded = {request.generator, *names.generators}
    weights += sum(find(name).profile(names).weight_bytes for name in loaded)
    if names.judge is not None:
        weights += share * guide_memory(find_card(names.judge, names.weights), names.weights)[0]
    picture, sampling = step, 0
    if request.options.get("start", "dalle") == "dalle":
        # a sequence for each prompt, and one without
        sequences: int = request.options.get("candidates", 0) * (1 + len(request.prompts))
        sampling = sequences * profile.bytes_per_candidate
    if issubclass(module.Options, DrawingOptions):
        options = request.options
        views = options["cutouts"] * (1 + sum(prompt.image is not None for prompt in request.prompts))
        seeing = [
            guide
            for name, guide in zip(names.clips, guides, strict=True)
            if options["guide_weights"].get(name, 1)
        ]
        encoded = [share * view * (min(views, FRUGAL_VIEWS) if frugal else views) for _, view, _ in seeing]
        step += max(encoded, default=0) if frugal else sum(encoded)
        step += _FLOAT * views * sum(_VIEW_FLOATS * side**2 + _SEEN_FLOATS * pixels for _, _, side in seeing)
        step += _FLOAT * _PICTURE_FLOATS * pixels
        if options["style"]:  # through the encoder, which has a block less at each level
            blocks = vqgan.ddconfig.num_res_blocks
            step += pixels * decoder_bytes(vqgan, "fp32") * blocks / (blocks + 1)
        step = max(step, picture + _COMPARED * sampling)  # which is over before the first step
    else:
        step += sampling
    return round(RUNTIME + weights + HEADROOM * step)


def serving_memory(card: ClipCard, weights: Path, dtype: str) -> int:
    """Bytes that a CLIP takes to serve: its weights, and a batch on its way, which frees each layer at once.

    On a CPU demo-photo took 134 MB (148 are reckoned), a ViT-B/32 640 MB (744).

    Args:
        weights: where relative folders start.
        dtype: fp32, bf16, fp16, int8 or auto, which is reckoned as fp32.
    """
    share = 1.0 if dtype in ("fp32", "auto") else _HALF
    weight_bytes, view_bytes, _ = guide_memory(card, weights)
    return round(HEADROOM * share * (weight_bytes + view_bytes))


def largest_size(request: GenerationRequest, names: "NetworkNames", limit: int) -> tuple[int, int] | None:
    """The largest width and height of the request's shape that fit, drawn frugally; none: no size does.

    Args:
        limit: bytes.
    """
    multiple = find(request.generator).profile(names).size_multiple

    def size(columns: int) -> tuple[int, int]:
        rows = max(1, round(columns * request.height / request.width))
        return columns * multiple, rows * multiple

    def need(columns: int) -> int:
        width, height = size(columns)
        return predict(request.model_copy(update={"width": width, "height": height}), names, frugal=True)

    sizes = range(1, request.width // multiple + 1)
    fitting = bisect_right(sizes, limit, key=need)
    width, height = size(fitting)
    least: int = GenerationRequest.model_fields["width"].metadata[0].ge
    return (width, height) if fitting and min(width, height) >= least else None


def decoder_bytes(config: VqganConfig, dtype: str, *, frugal: bool = False) -> float:
    """What a VQGAN's decoder keeps of one picture, in bytes per pixel: the inputs of its normalizations.

    Of an attention also its queries, keys and values, and what it found. Frugally, of a block its own input
    alone.
    """
    floats = 0.0
    for kind, inputs, outputs, area in _decoder(config):
        match kind:
            case "block":
                floats += (inputs if frugal else inputs + outputs) * area
            case "attention":
                floats += 5 * inputs * area
    # the end, and the way back's first; frugally, of its largest block
    floats += (6.45 if frugal else 5.5) * config.ddconfig.ch * config.ddconfig.ch_mult[0]
    return floats * (_FLOAT / 2 if dtype == "bf16" else _FLOAT)


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
    return _FLOAT * (2 * count + config.n_embed * config.embed_dim)


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
        return _FLOAT * values, _vit_view(depth, width, tokens), side
    except (KeyError, TypeError, ZeroDivisionError):
        return 1_710_500_000, round(_vit_view(24, 1024, 257) * (side / 224) ** 2), side


def _vit_view(depth: int, width: int, tokens: int) -> int:
    # of each layer: the inputs of both norms, queries, keys, values, what is attended to, and eight for the
    # perceptron of four times the width: with QuickGELU, which keeps its input and the sigmoid
    return round(_FLOAT * tokens * width * 15.2 * depth)


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
