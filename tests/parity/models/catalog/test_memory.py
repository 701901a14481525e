"""What is reckoned of a drawing's memory is near to what its tensors take at once, on the demo models."""

from typing import Any

import pytest

from benchmarks.drawing.memory import drawing, measure_drawing, measure_guide, measure_vqgan
from models.catalog.memory import HEADROOM, RUNTIME, predict
from models.clip.cards import find_card
from models.generators import find
from models.networks.footprint import decoder_bytes, guide_memory, vqgan_weights
from models.networks.vqgan import read_card
from models.requests.network_names import NetworkNames
from models.weights_io.card import WEIGHTS

NAMES = NetworkNames(device="cpu")


def reckoned(request: Any, *, low_memory: bool) -> float:
    """Bytes of a step, without the headroom, the libraries and the weights."""
    weights = vqgan_weights(read_card(NAMES.vqgan).config)
    weights += find(request.generator).profile(NAMES).weight_bytes
    weights += sum(guide_memory(find_card(name), WEIGHTS)[0] for name in NAMES.clips)
    return (predict(request, NAMES, low_memory=low_memory) - RUNTIME - weights) / HEADROOM


@pytest.mark.parametrize(
    ("generator", "side", "options", "image_prompts", "low_memory"),
    [
        ("vqgan_clip", 96, {"cutouts": 2}, 0, False),
        ("vqgan_clip", 96, {"cutouts": 12}, 0, False),
        ("vqgan_clip", 96, {"cutouts": 12}, 0, True),
        ("vqgan_clip", 96, {"cutouts": 4, "cutout_method": "original"}, 2, False),
        ("vqgan_clip", 96, {"cutouts": 6, "cutout_method": "updated"}, 0, False),
        ("vqgan_clip", 96, {"cutouts": 6, "cutout_method": "pooling"}, 0, True),
        ("vqgan_clip", 96, {"cutouts": 6, "cutout_method": "pixray"}, 0, False),
        ("vqgan_clip", 192, {"cutouts": 2}, 0, True),
        ("pixels", 256, {"cutouts": 4}, 0, False),
        ("fft", 256, {"cutouts": 2}, 0, False),
        ("dalle", 96, {"candidates": 8}, 0, False),
        ("dalle", 96, {"candidates": 24}, 0, False),
    ],
)
def test_a_drawing_takes_about_what_is_reckoned(
    generator: str, side: int, options: dict[str, Any], image_prompts: int, low_memory: bool
) -> None:
    request = drawing(generator, side, options, image_prompts)
    measured = measure_drawing(request, "cpu", low_memory)
    # what is added up may peak one after the other: then more is reckoned than is taken
    assert 0.8 < reckoned(request, low_memory=low_memory) / measured < 1.8


@pytest.mark.parametrize("name", ["demo", "imagenet-f16-1024", "openimages-f8-8192"])
def test_a_decoder_takes_what_its_config_says(name: str) -> None:
    """Followed through fake tensors, which need no weights."""
    for low_memory in (False, True):
        told = decoder_bytes(read_card(name).config, "fp32", low_memory=low_memory)
        for side in (64, 256):
            _, peak, _ = measure_vqgan(name, side, low_memory=low_memory)
            assert peak == pytest.approx(told * side**2, rel=0.02)


@pytest.mark.parametrize("name", ["demo-icons", "ViT-B-32", "RN50"])
def test_a_card_says_what_a_view_takes(name: str) -> None:
    card = find_card(name)
    assert measure_guide(card) == pytest.approx((card.weight_bytes, card.view_bytes), rel=0.02)
