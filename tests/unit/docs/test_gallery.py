"""The page of ways to draw is up to date, and each of its requests is one that the service takes."""

import importlib.util
import json
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from models.generators import complete
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.requests.request import Presets, Prompt, SaveOptions

GALLERY = Path(__file__).parents[3] / "docs" / "gallery"
SECTIONS = tomllib.loads((GALLERY / "examples.toml").read_text())["section"]
EXAMPLES = [example for section in SECTIONS for example in section["example"]]


def test_the_page_says_what_the_examples_say():
    spec = importlib.util.spec_from_file_location("gallery", GALLERY / "draw.py")
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    assert draw.PAGE.read_text() == draw.page(SECTIONS)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["name"])
def test_an_example_is_a_request_that_can_be_drawn_and_has_its_picture(example):
    fields = json.loads(example["request"])
    prompts = parse(fields.pop("prompt")) if "prompt" in fields else None
    listed = tuple(Prompt(**prompt) for prompt in fields.pop("prompts", ()))
    presets = Presets(
        **{name: fields.pop(name) for name in ("quality", "aspect", "compat") if name in fields}
    )
    complete(
        NetworkNames(),
        generator=fields.pop("generator", "vqgan_clip"),
        prompts=prompts or listed,
        presets=presets,
        save=SaveOptions(**fields.pop("save", {})),
        **fields,
    )
    with Image.open(GALLERY / f"{example['name']}.webp") as picture:
        picture.load()
