"""DALL-E mini without torch: cards, what a text becomes, what is refused, what memory it takes."""

from pathlib import Path
from typing import Any

import pytest

from models.catalog.memory import predict
from models.generators import complete, find
from models.networks.min_dalle import OWN_CARD, UnknownMinDalle, available, read_card
from models.networks.min_dalle.bpe import Tokenizer, readable
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.requests.request import GenerationRequest, InvalidRequest, Presets, Prompt

TOKENS = {
    part: number for number, part in enumerate(["<s>", "<pad>", "</s>", "<unk>", "Ġ", "a", "b", "ab", "Ġab"])
}


def asked(prompt: Any = "a fox", **fields: Any) -> GenerationRequest:
    prompts = parse(prompt) if isinstance(prompt, str) else prompt
    return complete(NetworkNames(), generator="min_dalle", prompts=prompts, **fields)


@pytest.mark.parametrize(("name", "millions"), [("min-dalle-mini", 438), ("min-dalle-mega", 2588)])
def test_published_models_have_their_sizes(name: str, millions: int) -> None:
    card = read_card(name)
    assert card.codes == 256
    assert card.width == 64 * card.heads
    assert round(card.weight_bytes("fp32") / 4e6) == pytest.approx(millions, abs=3)
    assert card.weight_bytes("bf16") * 2 == card.weight_bytes("fp32")


def test_a_card_of_your_own_lies_among_the_weights(tmp_path: Path) -> None:
    text = (Path(__file__).parents[5] / "models/networks/min_dalle/cards/min-dalle-mini.toml").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / OWN_CARD).write_text(text.replace("depth = 12", "depth = 3"))
    assert "mine" in available(tmp_path)
    assert read_card("mine", tmp_path).depth == 3
    with pytest.raises(UnknownMinDalle, match="min-dalle-mega, min-dalle-mini, mine"):
        read_card("dalle-3", tmp_path)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("A Red  Heart\n", "a red heart"),
        ("café", "caf"),
        ("a 🦊 at night", "a fox at night"),
        ("心", ""),
    ],
)
def test_texts_are_read_in_lower_case_ascii_with_emoji_by_name(text: str, read: str) -> None:
    assert readable(text) == read


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("ab", [8]), ("aab", [4, 5, 7]), ("ba AB", [4, 6, 5, 8]), ("abab", [8, 7]), ("az", [4, 5, 3]), ("", [])],
)
def test_the_first_merge_comes_first_and_what_has_no_number_is_unknown(text: str, tokens: list[int]) -> None:
    tokenizer = Tokenizer(TOKENS, [("a", "b"), ("Ġ", "ab")])
    assert tokenizer.encode(text) == [0, *tokens, 2]


def test_the_defaults_are_min_dalles() -> None:
    request = asked()
    assert (request.width, request.height, request.steps) == (256, 256, 256)
    options = {
        key: request.options[key] for key in ("guidance", "top_k", "top_p", "temperature", "candidates")
    }
    assert options == {"guidance": 16, "top_k": 256, "top_p": 1, "temperature": 1, "candidates": 8}
    assert "init_image" not in request.options, "its VQGAN has no encoder"


def test_it_says_whose_it_is_and_under_which_license() -> None:
    model = find("min_dalle").profile(NetworkNames(min_dalle="min-dalle-mega")).model
    assert model
    assert (model.name, model.license) == ("min-dalle-mega", "Apache-2.0 AND MIT")
    assert "Not OpenAI's DALL-E" in model.description
    assert any("Dayma" in line for line in model.attributions)


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"width": 512}, "/width", "invalid_size"),
        ({"steps": 70}, "/steps", "invalid_steps"),
        ({"prompt": (Prompt(text="a fox"), Prompt(noise=1))}, "/prompts/1", "text_only"),
        ({"prompt": "a cat:-1"}, "/prompts", "nothing_to_draw"),
        ({"prompt": "a cat | 心"}, "/prompts/1", "unreadable"),
        ({"presets": Presets(aspect="portrait")}, "/presets/aspect", "unknown_preset"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_a_job_is_made(
    fields: dict[str, Any], pointer: str, code: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(**fields)
    assert (pointer, code) == (caught.value.pointer, caught.value.code)


def test_what_is_loaded_takes_memory_whatever_is_drawn() -> None:
    def need(generator: str, **fields: Any) -> int:
        names = NetworkNames(**fields)
        request = complete(names, generator=generator, prompts=parse("a cat"))
        return predict(request, names, low_memory=False)

    mini, mega = (need("min_dalle", min_dalle=f"min-dalle-{size}") for size in ("mini", "mega"))
    assert mega - mini > 4 * 2.1e9  # of 438 million and 2.6 billion parameters, four bytes each
    assert mega - need("min_dalle", min_dalle="min-dalle-mega", dtype="bf16") > 2 * 2.5e9
    more = need("gradient", generators=("gradient", "min_dalle")) - need("gradient")
    assert 4 * 438e6 < more < 4 * 560e6
