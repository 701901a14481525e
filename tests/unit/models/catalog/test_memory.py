"""The memory of a drawing is reckoned from cards, without torch; what fits and what would is told from it."""

import subprocess
import sys
from typing import Any

import pytest

from jobs.settings import JobSettings
from models.catalog.memory import GIB, largest_size, predict, serving_memory
from models.clip import cards
from models.generators import complete
from models.networks.footprint import guide_memory
from models.networks.vqgan import available as vqgans
from models.requests.network_names import NetworkNames
from models.requests.request import GenerationRequest, Prompt
from models.weights_io.card import WEIGHTS

IMAGENET = NetworkNames(vqgan="imagenet-f16-16384", clips=("ViT-B-32",))


def drawing(
    names: NetworkNames = IMAGENET,
    side: int | None = None,
    *,
    generator: str = "vqgan_clip",
    image_prompts: int = 0,
    **fields: Any,
) -> GenerationRequest:
    return complete(
        names,
        generator=generator,
        prompts=(Prompt(text="a fox"), *(Prompt(image="a.png") for _ in range(image_prompts))),
        width=fields.pop("width", side),
        height=fields.pop("height", side),
        options=fields,
    )


def needs(names: NetworkNames = IMAGENET, *, low_memory: bool = False, **fields: Any) -> int:
    return predict(drawing(names, **fields), names, low_memory=low_memory)


def test_reckoning_imports_no_torch() -> None:
    program = (
        "import sys; from tests.unit.models.catalog.test_memory import needs; needs(side=256)\n"
        "heavy = {'torch', 'open_clip', 'taming'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)


def test_a_vqgan_and_a_clip_of_the_field_need_less_than_people_report() -> None:
    """8 GiB were said to be enough for 380x380 with 64 cutouts by those who used these networks."""
    assert 4 * GIB < needs(side=384, cutouts=64) < 7 * GIB


@pytest.mark.parametrize(
    "larger",
    [
        {"side": 512},
        {"cutouts": 64},
        {"image_prompts": 1},
        {"image_prompts": 3},
        {"style": 1, "style_image": "a.png"},
    ],
)
def test_more_of_anything_needs_more(larger: dict[str, Any]) -> None:
    assert needs(**{"side": 256, "cutouts": 32, **larger}) > 1.05 * needs(side=256, cutouts=32)


def test_each_guide_counts_by_its_own_views_unless_its_weight_is_zero() -> None:
    two = NetworkNames(IMAGENET.vqgan, ("ViT-B-32", "ViT-L-14"))
    one_used = needs(two, side=256, guide_weights={"ViT-L-14": 0})
    assert needs(side=256) < one_used, "its weights are there all the same"
    assert needs(two, side=256) > one_used + 30 * 369e6


def test_a_frugal_drawing_needs_less_and_hardly_more_for_more_views() -> None:
    few, many = (needs(low_memory=True, side=256, cutouts=cutouts) for cutouts in (16, 256))
    assert few < needs(side=256, cutouts=16)
    assert many - few < 0.3 * (needs(side=256, cutouts=256) - needs(side=256, cutouts=16))


def test_half_precision_needs_less() -> None:
    half = NetworkNames(IMAGENET.vqgan, IMAGENET.clips, dtype="bf16")
    assert needs(half, side=256, cutouts=64) < needs(side=256, cutouts=64)


@pytest.mark.parametrize("generator", ["vqgan_clip", "pixels"])
@pytest.mark.parametrize("shape", [(1024, 1024), (1920, 1088), (512, 2048)])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_the_largest_size_fits_and_has_the_shape_and_the_next_one_does_not_fit(
    generator: str, shape: tuple[int, int], share: float
) -> None:
    request = drawing(generator=generator, width=shape[0], height=shape[1], cutouts=64)
    least = predict(request.model_copy(update={"width": 16, "height": 16}), IMAGENET, low_memory=True)
    most = predict(request, IMAGENET, low_memory=True)
    limit = round(least + share * (most - least))
    size = largest_size(request, IMAGENET, limit)
    assert size is not None
    width, height = size
    assert (width % 16, height % 16) == (0, 0) or generator != "vqgan_clip"
    assert abs(width / height / (shape[0] / shape[1]) - 1) < 0.2

    def need(width: int, height: int) -> int:
        sized = request.model_copy(update={"width": width, "height": height})
        return predict(sized, IMAGENET, low_memory=True)

    assert need(width, height) <= limit
    step = 16 if generator == "vqgan_clip" else 1
    next_width = width + step
    next_height = max(1, round(next_width / step * shape[1] / shape[0])) * step
    assert need(next_width, next_height) > limit


def test_no_size_is_named_where_none_fits() -> None:
    assert largest_size(drawing(side=256), IMAGENET, GIB) is None


def test_what_has_no_guides_needs_hardly_anything_of_its_own() -> None:
    small, large = (needs(generator="gradient", side=side) for side in (64, 1024))
    assert small == large < needs(generator="pixels", side=64)


@pytest.mark.parametrize("name", cards.available())
def test_every_clip_card_says_what_it_takes(name: str) -> None:
    card = cards.find_card(name)
    weights, view, side = guide_memory(card, WEIGHTS)
    assert (weights, view, side) == (card.weight_bytes, card.view_bytes, card.image_size)


@pytest.mark.parametrize("vqgan", vqgans())
def test_every_vqgan_can_be_reckoned(vqgan: str) -> None:
    names = NetworkNames(vqgan)
    assert needs(names, side=512) > needs(names, side=256) > 2**29


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-32", "ViT-L-14", "ViT-L-14-336"])
def test_a_vit_without_a_card_is_reckoned_from_open_clips_configuration(name: str) -> None:
    card = cards.find_card(name)
    assert card.weight_bytes
    assert card.view_bytes
    weights, view, side = guide_memory(cards.find_card(card.source), WEIGHTS)
    assert side == card.image_size
    assert 0.9 < weights / card.weight_bytes < 1.1
    assert 0.95 < view / card.view_bytes < 1.1


def test_a_clip_of_which_nothing_is_known_is_taken_to_be_large() -> None:
    known = cards.find_card("ViT-L-14")
    weights, view, _ = guide_memory(cards.find_card("hf-hub:nobody/knows"), WEIGHTS)
    assert known.view_bytes
    assert (weights, view >= known.view_bytes) == (known.weight_bytes, True)


@pytest.mark.parametrize(("said", "bytes_"), [("8GiB", 8 * GIB), ("1073741824", GIB), (2048, 2048)])
def test_the_setting_takes_bytes_and_units(said: str | int, bytes_: int) -> None:
    assert JobSettings(device_memory=said).device_memory == bytes_  # type: ignore[arg-type]


@pytest.mark.parametrize("said", ["0", "-1GiB", "much"])
def test_the_setting_takes_no_nonsense(said: str) -> None:
    with pytest.raises(ValueError, match="device_memory"):
        JobSettings(device_memory=said)  # type: ignore[arg-type]


def test_a_clip_that_serves_takes_its_weights_and_not_much_more() -> None:
    for name in cards.available():
        card = cards.find_card(name, WEIGHTS)
        weights = guide_memory(card, WEIGHTS)[0]
        assert weights < serving_memory(card, WEIGHTS, "fp32") < 3 * weights
        assert serving_memory(card, WEIGHTS, "bf16") < serving_memory(card, WEIGHTS, "auto")
