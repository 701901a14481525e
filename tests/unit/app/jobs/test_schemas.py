"""What a drawing may ask for: every option has its bounds, and every bound is told to who oversteps it."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from app.dependencies import ANYBODY
from app.http.body import InvalidBody, LimitExceeded, validate
from app.http.errors import Fault
from app.http.image_input import ImageRefused
from app.jobs.prepare_drawing import prepare, view_generator
from app.jobs.schemas import JobRequest
from app.jobs.submit import Prepared
from app.settings import ApiSettings
from models import generators

SETTINGS = ApiSettings(generators=tuple(generators.available()))
BODY: dict[str, Any] = {"generator": "gradient", "prompt": "a fox"}
GENERATORS = [view_generator(name, SETTINGS) for name in SETTINGS.generators]


def ask(body: dict[str, Any]) -> Prepared:
    return prepare(validate(JobRequest, body, strict=True), ANYBODY, SETTINGS)


def faults(body: dict[str, Any]) -> tuple[Fault, ...]:
    with pytest.raises((InvalidBody, LimitExceeded, ImageRefused)) as caught:
        ask(body)
    found: tuple[Fault, ...] = caught.value.faults  # type: ignore[attr-defined]
    return found


def picture(size: tuple[int, int], color: str = "red") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def kinds_of(option: dict[str, Any]) -> list[dict[str, Any]]:
    return [kind for kind in option.get("anyOf", [option]) if kind.get("type") != "null"]


def beyond(option: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """Values just outside of what a schema allows, each with the word for the bound."""
    for kind in kinds_of(option):
        step = 1 if kind.get("type") == "integer" else 0.5
        if "minimum" in kind:
            yield kind["minimum"] - step, f"{kind['minimum']:g}"
        if "maximum" in kind:
            yield kind["maximum"] + step, f"{kind['maximum']:g}"
        for name in {"exclusiveMinimum", "exclusiveMaximum"} & set(kind):
            yield kind[name], f"{kind[name]:g}"
        if "maxItems" in kind:
            item = 0.5 if kind["items"].get("type") == "number" else "#000000"
            yield [item] * (kind["maxItems"] + 1), str(kind["maxItems"])
        if "enum" in kind:
            yield "no such word", str(kind["enum"][0])


@pytest.mark.parametrize("card", GENERATORS, ids=lambda card: card.name)
def test_every_option_has_a_description_a_default_and_bounds(card: Any) -> None:
    assert card.description
    assert set(card.defaults["options"]) == set(card.options["properties"])
    for name, option in card.options["properties"].items():
        assert option.get("description"), name
        assert option["default"] == card.defaults["options"][name], name
        for kind in kinds_of(option):
            if kind.get("type") in ("number", "integer"):
                assert {"minimum", "exclusiveMinimum"} & set(kind), name
                assert {"maximum", "exclusiveMaximum"} & set(kind), name
            if kind.get("type") == "array":
                assert "maxItems" in kind, name


@pytest.mark.parametrize("card", GENERATORS, ids=lambda card: card.name)
def test_a_value_beyond_a_bound_is_refused_by_the_bound_s_name(card: Any) -> None:
    tried = 0
    for name, option in card.options["properties"].items():
        for value, bound in beyond(option):
            found = faults({**BODY, "generator": card.name, "options": {name: value}})
            [fault] = [fault for fault in found if fault.pointer.startswith(f"#/options/{name}")]
            assert bound in fault.detail, (name, value, fault)
            tried += 1
    assert tried >= 2
    found = faults({**BODY, "generator": card.name, "options": {"no_such_option": 1}})
    assert [fault.pointer for fault in found] == ["#/options/no_such_option"]


@pytest.mark.parametrize("card", GENERATORS, ids=lambda card: card.name)
def test_defaults_and_presets_are_what_the_generator_takes(card: Any) -> None:
    request = ask({**BODY, "generator": card.name, **card.defaults}).job.request
    assert request.save.model_dump() == card.defaults["save"]
    for preset, words in card.presets.items():
        for word, changes in words.items():
            chosen = ask({**BODY, "generator": card.name, preset: word}).job.request
            for field in ("width", "height", "steps"):
                assert getattr(chosen, field) == changes.get(field, card.defaults[field]), (preset, word)
            assert chosen.options == {**card.defaults["options"], **changes.get("options", {})}
    assert card.presets["quality"]["normal"] == {}


def test_what_a_request_says_goes_before_its_presets() -> None:
    request = ask({**BODY, "generator": "vqgan_clip", "quality": "best", "steps": 3}).job.request
    assert request.steps == 3


@pytest.mark.parametrize(
    ("values", "pointer", "told"),
    [
        ({"save": {"quality": 0}}, "#/save/quality", "1"),
        ({"save": {"quality": 101}}, "#/save/quality", "100"),
        ({"save": {"thumbnail": 1025}}, "#/save/thumbnail", "1024"),
        ({"save": {"frame_every": 0}}, "#/save/frame_every", "1"),
        ({"save": {"fps": 61}}, "#/save/fps", "60"),
        ({"save": {"format": "gif"}}, "#/save/format", "png"),
        ({"save": {"video": "avi"}}, "#/save/video", "mp4"),
        ({"save": {"film": "mp4"}}, "#/save/film", "not known"),
        ({"save": {"video": "mp4"}, "width": 500, "height": 500, "steps": 1001}, "#/save", "250000000"),
        ({"quality": "worst"}, "#/quality", "draft"),
        ({"aspect": "round"}, "#/aspect", "square"),
        ({"compat": "dalle"}, "#/compat", "crowson"),
        ({"compat": "crowson"}, "#/compat", "no preset compat=crowson"),
        ({"steps": 10_001}, "#/steps", "10000"),
        ({"width": 8}, "#/width", "16"),
        ({"seed": -1}, "#/seed", "0"),
        ({"seed": "9" * 5000}, "#/seed", "4294967295"),
        ({"seed": " "}, "#/seed", "number or a word"),
        ({"seed": 1.5}, "#/seed", "integer"),
        ({"num_images": 17}, "#/num_images", "16"),
        ({"prompts": [{"text": "a", "weight": 11}]}, "#/prompts/0/weight", "10"),
        ({"prompts": [{"text": "a", "fade": 2}]}, "#/prompts/0/fade", "1"),
        ({"prompts": [{"text": "a", "begin": 0.5, "end": 0.5}]}, "#/prompts/0", "begins before"),
        ({"prompts": [{"text": "a", "noise": 1}]}, "#/prompts/0", "exactly one"),
        ({"prompts": [{"weight": 1}]}, "#/prompts/0", "exactly one"),
        ({"prompts": [{"noise": -1}]}, "#/prompts/0/noise", "0"),
        ({"prompts": [{"vector": []}]}, "#/prompts/0/vector", "1"),
        ({"prompts": [{"vector": [1, "2"]}]}, "#/prompts/0/vector/1", "number"),
        ({"prompts": [{"target": "x"}]}, "#/prompts/0/target", "base64"),
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_named_with_its_bound(
    values: dict[str, Any], pointer: str, told: str
) -> None:
    body = {**BODY, **values}
    if "prompts" in values:
        del body["prompt"]
    found = faults(body)
    assert found[0].pointer.startswith(pointer), found
    assert told in found[0].detail.replace(",", ""), found


def test_a_word_is_a_seed_and_stands_for_the_same_number_each_time() -> None:
    seeds = [ask({**BODY, "seed": seed}).job.request.seed for seed in ("fox", "fox", "Fox", "7", 7, "füchse")]
    # the first four bytes that `printf fox | sha256sum` prints
    assert seeds[0] == seeds[1] == 0x776CB326
    assert seeds[2] != seeds[0]
    assert seeds[3:5] == [7, 7]
    assert 0 <= seeds[5] < 2**32


def test_a_film_counts_its_frames_and_not_its_steps() -> None:
    size = {"width": 1000, "height": 1000, "steps": 500}
    assert ask({**BODY, **size, "save": {"video": "mp4", "frame_every": 2}}).job.request.save.frame_every == 2


def test_pictures_of_prompts_and_options_become_inputs() -> None:
    drawing = ask(
        {
            "generator": "vqgan_clip",
            "prompts": [
                {"target": picture((8, 8)), "weight": 0.5, "end": 0.5},
                {"text": "input-0.png"},
                {"image": picture((9, 9))},
            ],
            "options": {"style": 1, "style_image": picture((10, 10)), "init_image": picture((11, 11))},
        }
    )
    request = drawing.job.request
    assert (request.prompts[0].target, request.prompts[2].image) == ("input-0.png", "input-1.png")
    assert (request.prompts[0].weight, request.prompts[0].end) == (0.5, 0.5)
    assert request.prompts[1].text == "input-0.png"
    sizes = {item.name: item.width for item in drawing.job.inputs}
    assert [sizes[request.options[name]] for name in ("init_image", "style_image")] == [11, 10]
    assert len(drawing.files) == 4


def test_a_picture_keeps_what_the_drawing_can_show() -> None:
    """A mask as many pixels as the picture whose pixels it keeps."""
    options = {"init_image": picture((2400, 1200)), "mask": picture((2400, 1200), "white")}
    body = {**BODY, "generator": "vqgan_clip", "options": options, "steps": 1}
    small, large = (ask({**body, "width": side, "height": 64}).job.inputs for side in (64, 2048))
    assert {(item.width, item.height) for item in small} == {(1024, 512)}
    assert {(item.width, item.height) for item in large} == {(2048, 1024)}
