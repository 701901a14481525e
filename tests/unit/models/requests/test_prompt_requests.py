"""Prompts as clients send them: each kind is taken, and what no guide could read is pointed at."""

import base64
import io
import re
from typing import Any

import pytest
from PIL import Image

from app.dependencies import ANYBODY
from app.http.body import InvalidBody, validate
from app.http.errors import Fault
from app.jobs.prepare_drawing import prepare
from app.jobs.schemas import JobRequest
from app.jobs.submit import Prepared
from app.settings import ApiSettings
from models.requests.request import Prompt

SETTINGS = ApiSettings(guides=("demo-icons", "ViT-B-32"))
VECTOR = [0, 0.5] * 320  # numbers of both kinds, as JSON has them


def ask(**body: Any) -> Prepared:
    return prepare(validate(JobRequest, {"generator": "pixels", **body}, strict=True), ANYBODY, SETTINGS)


def fault(**body: Any) -> Fault:
    with pytest.raises(InvalidBody) as caught:
        ask(**body)
    found, *_ = caught.value.faults
    return found


def picture() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_each_kind_of_prompt_is_taken_with_its_weight_and_time() -> None:
    kinds: list[dict[str, Any]] = [
        {"text": "a fox", "stop": 0.5},
        {"image": picture(), "weight": -2},
        {"target": picture(), "begin": 0.5},
        {"vector": VECTOR, "end": 0.5, "fade": 0.25},
        {"noise": 7},
    ]
    drawing = ask(prompts=kinds)
    assert drawing.job.request.prompts == (
        Prompt(text="a fox", stop=0.5),
        Prompt(image="input-0.png", weight=-2),
        Prompt(target="input-1.png", begin=0.5),
        Prompt(vector=tuple(VECTOR), end=0.5, fade=0.25),
        Prompt(noise=7),
    )
    assert [item.name for item in drawing.job.inputs] == ["input-0.png", "input-1.png"]


def test_phases_come_in_one_line() -> None:
    prompts = ask(prompt="a bud | blurry:-1 ^ a flower").job.request.prompts
    assert [(prompt.text, prompt.begin, prompt.end) for prompt in prompts] == [
        ("a bud", 0, 0.5),
        ("blurry", 0, 0.5),
        ("a flower", 0.5, 1),
    ]


def test_pictures_stand_beside_the_phases_of_a_line() -> None:
    drawing = ask(prompt="a bud ^ a flower", prompts=[{"image": picture(), "weight": 0.5}])
    assert drawing.job.request.prompts == (
        Prompt(text="a bud", end=0.5),
        Prompt(text="a flower", begin=0.5),
        Prompt(image="input-0.png", weight=0.5),
    )
    assert [item.name for item in drawing.job.inputs] == ["input-0.png"]


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        ({"prompts": [{"text": "a"}, {"text": "fog " * 90}]}, "#/prompts/1/text", "up to 32 tokens"),
        ({"prompt": "a | " + "fog " * 90}, "#/prompt", "up to 32 tokens"),
        ({"prompt": "a | b", "prompts": [{"text": "fog " * 90}]}, "#/prompts/0/text", "up to 32 tokens"),
        ({"prompt": "a | " + "fog " * 90, "prompts": [{"text": "b"}]}, "#/prompt", "up to 32 tokens"),
        ({"prompts": [{"vector": [1.0] * 512}]}, "#/prompts/0/vector", "expected 640 numbers.* got 512"),
        ({"prompts": [{"vector": [1.0] * 5000}]}, "#/prompts/0/vector", "4096"),
        ({"prompts": [{"vector": []}]}, "#/prompts/0/vector", "1"),
        ({"prompts": [{"text": "a", "noise": 1}]}, "#/prompts/0", "exactly one of"),
        ({"prompts": [{"weight": 1}]}, "#/prompts/0", "exactly one of"),
        ({"prompts": [{"text": "a", "begin": 0.5, "end": 0.5}]}, "#/prompts/0", "begins before it ends"),
        ({"prompt": "a", "options": {"templates": ["{prompt} " * 99]}}, "#/options/templates/0", "200"),
        ({"prompts": [{"noise": -1}]}, "#/prompts/0/noise", "0"),
        ({"prompts": [{"text": "a", "weight": 11}]}, "#/prompts/0/weight", "10"),
        ({"prompts": [{"text": "a", "fade": 2}]}, "#/prompts/0/fade", "1"),
        ({"prompt": "a cat:11"}, "#/prompt", "10"),
        (
            {"prompt": "a", "options": {"guide_weights": {"RN50": 1}}},
            "#/options/guide_weights",
            "demo-icons, ViT-B-32",
        ),
        (
            {"prompt": "a", "options": {"guide_weights": {"demo-icons": 0, "ViT-B-32": 0}}},
            "#/options/guide_weights",
            "at least one",
        ),
        (
            {"prompt": "a", "options": {"guide_weights": {"demo-icons": 11}}},
            "#/options/guide_weights/demo-icons",
            "10",
        ),
    ],
)
def test_a_prompt_that_cannot_pull_is_pointed_at(body: dict[str, Any], pointer: str, words: str) -> None:
    found = fault(**body)
    assert found.pointer == pointer
    assert re.search(words, found.detail), found.detail
