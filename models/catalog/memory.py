"""How much of a device's memory a drawing takes, reckoned from cards: nothing is loaded, torch not needed.

What counts is what a step keeps for its way back: the drawer's activations, by pixel, and those of each
guide, by view. `python -m benchmarks.drawing.memory` measures the terms; cards hold the guides'.
"""

from bisect import bisect_right
from functools import lru_cache
from pathlib import Path

from models.clip.cards import ClipCard, find_card
from models.generators import find
from models.networks.footprint import FLOAT, LOW_MEMORY_VIEWS, decoder_bytes, guide_memory, vqgan_weights
from models.networks.vqgan import read_card
from models.requests.network_names import NetworkNames
from models.requests.options import DrawingOptions
from models.requests.request import GenerationRequest

GIB = 2**30

RUNTIME = 7 * 2**27
"""Bytes that a worker takes before any network: its libraries, or on a GPU the context and the kernels."""

HEADROOM = 1.2
"""Of what a step keeps: for workspaces of kernels, and for what lies unused between blocks of memory."""

_HALF = 0.6  # of a guide in bf16 or fp16, beside fp32: what norms and biases keep stays fp32
_PICTURE_FLOATS = 24  # per pixel: the losses on the picture itself, its gradient, and the copies on the way
_SEEN_FLOATS = 8  # per pixel and view: a method may copy the picture for each view, and again on the way back
_VIEW_FLOATS = 24  # per value of a view: as it is cut, filtered and colored
_COMPARED = 1.5  # of the candidates of a start: what decoder and CLIP take as they are compared


def predict(request: GenerationRequest, names: NetworkNames, *, low_memory: bool) -> int:
    """Bytes that a worker takes to draw; several pictures are drawn one after the other.

    Args:
        low_memory: as of `models.requests.generator.Drawing`.
    """
    module = find(request.generator)
    profile, options = module.profile(names), module.Options.model_validate(request.options)
    pixels = request.width * request.height
    per_pixel = profile.bytes_per_pixel
    if low_memory and profile.low_memory_bytes_per_pixel is not None:
        per_pixel = profile.low_memory_bytes_per_pixel
    step = pixels * per_pixel
    guides = [guide_memory(find_card(name, names.weights), names.weights) for name in names.clips]
    vqgan = read_card(names.vqgan, names.weights).config
    share = 1.0 if names.dtype == "fp32" else _HALF
    weights = vqgan_weights(vqgan) + share * sum(weight for weight, _, _ in guides)
    loaded = {request.generator, *names.generators}
    weights += sum(_weight_bytes(name, names) for name in loaded)
    if names.held_out is not None:
        weights += share * guide_memory(find_card(names.held_out, names.weights), names.weights)[0]
    picture, sampling = step, 0
    if getattr(options, "start", "dalle") == "dalle":
        # a sequence for each prompt, and one without
        sequences: int = getattr(options, "candidates", 0) * (1 + len(request.prompts))
        sampling = sequences * profile.bytes_per_candidate
    if isinstance(options, DrawingOptions):
        views = options.cutouts * (1 + sum(prompt.image is not None for prompt in request.prompts))
        seeing = [
            guide
            for name, guide in zip(names.clips, guides, strict=True)
            if options.guide_weights.get(name, 1)
        ]
        at_once = min(views, LOW_MEMORY_VIEWS) if low_memory else views
        encoded = [share * view * at_once for _, view, _ in seeing]
        step += max(encoded, default=0) if low_memory else sum(encoded)
        step += FLOAT * views * sum(_VIEW_FLOATS * side**2 + _SEEN_FLOATS * pixels for _, _, side in seeing)
        step += FLOAT * _PICTURE_FLOATS * pixels
        if options.style:  # through the encoder, which has a block less at each level
            blocks = vqgan.ddconfig.num_res_blocks
            step += pixels * decoder_bytes(vqgan, "fp32") * blocks / (blocks + 1)
        step = max(step, picture + _COMPARED * sampling)  # which is over before the first step
    else:
        step += sampling
    return round(RUNTIME + weights + HEADROOM * step)


@lru_cache(maxsize=256)
def _weight_bytes(generator: str, names: NetworkNames) -> int:
    """Bytes of a generator's networks beside the VQGAN and the guides."""
    return find(generator).profile(names).weight_bytes


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


def largest_size(request: GenerationRequest, names: NetworkNames, limit: int) -> tuple[int, int] | None:
    """The largest size of the request's shape that fits, drawn with low memory; None: no size fits.

    Args:
        limit: bytes.
    """
    multiple = find(request.generator).profile(names).size_multiple

    def size(columns: int) -> tuple[int, int]:
        rows = max(1, round(columns * request.height / request.width))
        return columns * multiple, rows * multiple

    def need(columns: int) -> int:
        width, height = size(columns)
        return predict(request.model_copy(update={"width": width, "height": height}), names, low_memory=True)

    sizes = range(1, request.width // multiple + 1)
    fitting = bisect_right(sizes, limit, key=need)
    width, height = size(fitting)
    least: int = GenerationRequest.model_fields["width"].metadata[0].ge
    return (width, height) if fitting and min(width, height) >= least else None
