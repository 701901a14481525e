"""unCLIP without torch: cards, what is refused, how many steps, what memory it takes."""

from typing import Any

import pytest
from pydantic import ValidationError

from models.catalog.memory import predict
from models.generators import complete, find, preset_changes
from models.networks.unclip import UnknownUnclip, read_card, read_parts
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.requests.request import GenerationRequest, InvalidRequest, Presets, Prompt

TEXTS, VARIATIONS = "karlo-v1-alpha", "karlo-v1-alpha-image-variations"
PICTURE = (Prompt(target="photo"),)


def asked(prompt: Any = "a fox", *cards: str, **fields: Any) -> GenerationRequest:
    prompts = parse(prompt) if isinstance(prompt, str) else prompt
    names = NetworkNames(unclip=cards or (TEXTS, VARIATIONS))
    return complete(names, generator="unclip", prompts=prompts, **fields)


@pytest.mark.parametrize(("name", "millions"), [(TEXTS, 3422), (VARIATIONS, 2704)])
def test_published_models_have_their_sizes(name: str, millions: int) -> None:
    card = read_card(name)
    assert round(sum(card.parameters.values()) / 1e6) == millions
    assert card.side == 256
    files = card.files
    assert len(set(files)) == len(files)
    assert {"model_index.json", "decoder_scheduler/scheduler_config.json"} <= set(files)
    assert not any(file.endswith((".bin", ".ckpt", ".pt")) for file in files)
    with pytest.raises(UnknownUnclip, match=TEXTS):
        read_card("dalle-2")


def test_both_models_share_what_they_have_in_common() -> None:
    both, texts = read_parts((TEXTS, VARIATIONS)), read_parts((TEXTS,))
    assert both.weight_bytes("fp32") - texts.weight_bytes("fp32") == 4 * 303_966_208
    assert 2 * both.weight_bytes("bf16") == both.weight_bytes("fp32")
    assert both.reads_texts
    assert both.reads_pictures
    assert not texts.reads_pictures


def test_the_defaults_are_those_of_the_pipelines() -> None:
    request = asked()
    assert (request.width, request.height, request.steps) == (256, 256, 57)
    assert request.options == {
        "prior_steps": 25,
        "decoder_steps": 25,
        "upscaling_steps": 7,
        "prior_guidance": 4,
        "decoder_guidance": 8,
    }
    assert asked(PICTURE).steps == 32, "a picture needs no prior"
    assert asked(options={"prior_steps": 5, "upscaling_steps": 2}).steps == 32
    assert asked(steps=57).steps == 57


def test_a_quality_is_a_share_of_the_steps() -> None:
    told = preset_changes(find("unclip"), NetworkNames())["quality"]
    assert told["draft"]["options"] == {"prior_steps": 12, "decoder_steps": 12, "upscaling_steps": 4}
    assert (told["draft"]["steps"], told["best"]["steps"]) == (28, 114)


def test_it_says_whose_it_is_and_under_which_license() -> None:
    model = find("unclip").profile(NetworkNames(unclip=(TEXTS, VARIATIONS))).model
    assert model
    assert model.name == f"{TEXTS}, {VARIATIONS}"
    assert model.license == "CreativeML Open RAIL-M"
    assert "Kakao Brain" in model.description
    assert "not OpenAI's" in model.description
    assert any("Open RAIL-M" in line for line in model.attributions)


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"prompt": "a fox | a cat"}, "/prompts", "one_prompt"),
        ({"prompt": (Prompt(text="a fox"), Prompt(image="photo"))}, "/prompts", "one_prompt"),
        ({"prompt": "a fox:2"}, "/prompts/0/text", "no_weight"),
        ({"prompt": (Prompt(text="a fox", end=0.5),)}, "/prompts/0/text", "no_weight"),
        ({"prompt": (Prompt(noise=1),)}, "/prompts/0/noise", "text_or_picture"),
        ({"width": 512}, "/width", "invalid_size"),
        ({"height": 512}, "/height", "invalid_size"),
        ({"steps": 56}, "/steps", "invalid_steps"),
        ({"prompt": PICTURE, "steps": 57}, "/steps", "invalid_steps"),
        ({"presets": Presets(aspect="portrait")}, "/presets/aspect", "unknown_preset"),
        ({"presets": Presets(compat="pixray")}, "/presets/compat", "unknown_preset"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_a_job_is_made(
    fields: dict[str, Any], pointer: str, code: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(**fields)
    assert (pointer, code) == (caught.value.pointer, caught.value.code)


@pytest.mark.parametrize(
    ("prompt", "card", "pointer"),
    [(PICTURE, TEXTS, "/prompts/0/target"), ("a fox", VARIATIONS, "/prompts/0/text")],
)
def test_what_the_models_cannot_read_is_refused(prompt: Any, card: str, pointer: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{card} cannot read") as caught:
        asked(prompt, card)
    assert (pointer, "not_read") == (caught.value.pointer, caught.value.code)


@pytest.mark.parametrize(
    "options", [{"prior_steps": 1}, {"decoder_steps": 1001}, {"prior_guidance": 0.5}, {"guidance": 3}]
)
def test_options_have_bounds(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        asked(options=options)


def test_memory_is_that_of_all_networks_and_of_the_largest_step() -> None:
    def need(dtype: str) -> int:
        names = NetworkNames(unclip=(TEXTS,), dtype=dtype)
        return predict(asked("a fox", TEXTS), names, low_memory=False)

    assert 15e9 < need("fp32") < 18e9  # 13.7 of weights
    assert 7.5e9 < need("bf16") < 10e9
    names = NetworkNames(unclip=(TEXTS,))
    other = complete(names, generator="gradient", prompts=parse("a fox"))
    beside = NetworkNames(unclip=(TEXTS,), generators=("gradient", "unclip"))
    assert predict(other, beside, low_memory=False) - predict(other, names, low_memory=False) > 13e9
