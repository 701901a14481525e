"""The one-line syntax of prompts: `text:weight:stop`, separated by `|`."""

import pytest
from pydantic import ValidationError

from models.prompts import COLORS, color_of, parse, rivals
from models.requests import Prompt


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a lighthouse in fog", [Prompt(text="a lighthouse in fog")]),
        ("a cat:0.5", [Prompt(text="a cat", weight=0.5)]),
        ("photo:-1:-0.95", [Prompt(text="photo", weight=-1, stop=-0.95)]),
        ("a cat | blurry:-.3", [Prompt(text="a cat"), Prompt(text="blurry", weight=-0.3)]),
        ("a | | b |", [Prompt(text="a"), Prompt(text="b")]),
        ("a cat : 2 : 1e-1", [Prompt(text="a cat", weight=2, stop=0.1)]),
        ("時計:1.5", [Prompt(text="時計", weight=1.5)]),
    ],
)
def test_weights_and_stops_are_read_from_the_right(line, expected):
    assert tuple(expected) == parse(line)


@pytest.mark.parametrize(
    "line",
    ["a:b", "city: a map", ":", "::", ":5", "what: me:", "http://a/b", "a:nan", "a:inf", "a:1_0", "a:0x1"],
)
def test_a_colon_in_a_text_stays_in_it(line):
    assert (Prompt(text=line),) == parse(line)


def test_at_most_two_numbers_are_read():
    assert (Prompt(text="ratio 2", weight=3, stop=4),) == parse("ratio 2:3:4")
    assert (Prompt(text="ratio:2", weight=3, stop=4),) == parse("ratio:2:3:4")


@pytest.mark.parametrize("line", ["", "  ", "|", " | "])
def test_a_line_without_a_prompt_is_refused(line):
    with pytest.raises(ValueError, match="empty"):
        parse(line)


def test_too_many_prompts_are_refused():
    with pytest.raises(ValueError, match="at most 16 prompts, got 17"):
        parse("|".join("abcdefghijklmnopq"))


def test_a_weight_out_of_range_is_refused_and_named():
    with pytest.raises(ValidationError, match="weight"):
        parse("a cat:100")


def test_rivals_of_a_colored_thing_have_the_other_colors():
    others = rivals("a red heart")
    assert "a blue heart" in others
    assert "a red heart" not in others
    assert "a cat" in others


def test_a_thing_is_no_rival_of_itself():
    assert "a house" not in rivals("a small House")


@pytest.mark.parametrize(
    ("text", "color"),
    [("a Red heart", "red"), ("a boat, blue.", "blue"), ("grey fog", "gray"), ("a cat", None)],
)
def test_the_color_of_a_text_is_the_first_it_names(text, color):
    assert COLORS.get(color) == color_of(text)
