"""Prompts: their one-line syntax, their weights in time, and those that no guide could read."""

import pytest
from pydantic import ValidationError

from jobs.settings import JobSettings
from models.generators import complete
from models.requests.network_names import NetworkNames
from models.requests.prompts import COLORS, color_of, distractors, parse
from models.requests.request import InvalidRequest, Prompt


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


@pytest.mark.parametrize(
    "text", ["10:30", "a clock at 10:05", "a train at 9:59", "lunch, 12:30:45", "23:00", "at 0:10"]
)
def test_a_time_of_day_is_no_weight(text):
    assert (Prompt(text=text),) == parse(text)
    assert (Prompt(text=text, weight=-2),) == parse(f"{text}:-2")
    assert (Prompt(text=text, weight=1.5, stop=0.5),) == parse(f"{text}:1.5:.5")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("photo:1:10", Prompt(text="photo", weight=1, stop=10)),
        ("photo -1:10", Prompt(text="photo -1", weight=10)),
        ("room 101:10", Prompt(text="room 101", weight=10)),
        ("at 10:3", Prompt(text="at 10", weight=3)),
        ("at 10 :10", Prompt(text="at 10", weight=10)),
    ],
)
def test_what_is_no_time_of_day_is_a_weight(line, expected):
    assert (expected,) == parse(line)


def test_phases_share_the_steps_and_each_has_prompts_of_its_own():
    first, beside, second, third = parse("a bud:2 | blurry:-1 ^ a flower ^ a fruit:1:0.5")
    assert (first, beside) == (
        Prompt(text="a bud", weight=2, end=1 / 3),
        Prompt(text="blurry", weight=-1, end=1 / 3),
    )
    assert second == Prompt(text="a flower", begin=1 / 3, end=2 / 3)
    assert third == Prompt(text="a fruit", stop=0.5, begin=2 / 3)


@pytest.mark.parametrize("line", ["a cat", "a cat ^", "^ | a cat ^ ^"])
def test_a_phase_without_a_prompt_takes_no_time(line):
    assert (Prompt(text="a cat"),) == parse(line)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("steps", [1, 2, 10, 21, 300])
def test_of_phases_exactly_one_pulls_at_each_step(count, steps):
    prompts = parse("^".join("abcdefghijklmnop"[:count]))
    weights = [[prompt.weight_at(index / steps) for prompt in prompts] for index in range(steps)]
    assert all(sorted(row) == [0] * (count - 1) + [1] for row in weights)
    if steps >= count:
        assert all(any(column) for column in zip(*weights, strict=True))


def test_a_prompt_comes_and_goes_in_its_fade():
    prompt = Prompt(text="a cat", weight=-4, begin=0.25, end=0.5, fade=0.25)
    shares = (0, 0.25, 0.375, 0.5, 0.625, 0.75, 1)
    assert [prompt.weight_at(share) for share in shares] == [0, 0, -2, -4, -2, 0, 0]


@pytest.mark.parametrize("line", ["", "  ", "|", " | ", "^", " | ^ "])
def test_a_line_without_a_prompt_is_refused(line):
    with pytest.raises(ValueError, match="empty"):
        parse(line)


def test_too_many_prompts_are_refused():
    with pytest.raises(ValueError, match="at most 16 prompts, got 17"):
        parse("|".join("abcdefghijklmnopq"))
    with pytest.raises(ValueError, match="at most 16 prompts, got 18"):
        parse("a|b^" * 9)


def test_a_weight_out_of_range_is_refused_and_named():
    with pytest.raises(ValidationError, match="weight"):
        parse("a cat:100")


def test_distractors_of_a_colored_thing_have_the_other_colors():
    others = distractors("a red heart")
    assert "a blue heart" in others
    assert "a red heart" not in others
    assert "a cat" in others


def test_a_thing_is_no_rival_of_itself():
    assert "a house" not in distractors("a small House")


@pytest.mark.parametrize(
    ("text", "color"),
    [("a Red heart", "red"), ("a boat, blue.", "blue"), ("grey fog", "gray"), ("a cat", None)],
)
def test_the_color_of_a_text_is_the_first_it_names(text, color):
    assert COLORS.get(color) == color_of(text)


def complete_with(*prompts, names=None, **options):
    """A whole request of pixels; no network is loaded."""
    names = names or NetworkNames(clips=("demo-icons", "ViT-B-32"))
    return complete(names, generator="pixels", prompts=prompts, options=options)


def test_a_vector_has_as_many_numbers_as_the_first_guide_embeds_to():
    vector = Prompt(vector=[0.5] * 640)
    assert complete_with(vector).prompts == (vector,)
    for numbers, code, detail in (
        ([0.5] * 512, "wrong_dimension", "expected 640 numbers, an embedding of demo-icons, got 512"),
        ([0.0] * 640, "no_direction", "zeros"),
    ):
        with pytest.raises(InvalidRequest, match=detail) as refused:
            complete_with(Prompt(text="a cat"), Prompt(vector=numbers))
        assert (refused.value.pointer, refused.value.code) == ("/prompts/1/vector", code)
    with pytest.raises(InvalidRequest, match="weight is 0"):
        complete_with(vector, guide_weights={"demo-icons": 0})


def test_of_a_guide_without_a_card_any_vector_is_taken_until_it_is_loaded():
    names = NetworkNames(clips=("hf-hub:someone/something",))
    assert complete_with(Prompt(vector=[1.0, 2.0]), names=names)
    assert complete_with(Prompt(text="fog " * 200), names=names)


def test_a_text_that_is_certainly_too_long_is_refused_with_the_limit():
    assert complete_with(Prompt(text="fog " * 28))  # `a picture of` comes before it
    with pytest.raises(
        InvalidRequest, match=r"demo-icons reads texts of up to 32 tokens; .* 104 or"
    ) as refused:
        complete_with(Prompt(text="a cat"), Prompt(text="fog " * 100))
    assert (refused.value.pointer, refused.value.code) == ("/prompts/1/text", "text_too_long")
    # only those that look count, and what templates add is read, too
    only_the_other = {"demo-icons": 0}
    assert complete_with(Prompt(text="fog " * 70), guide_weights=only_the_other)
    with pytest.raises(InvalidRequest, match="ViT-B-32 reads texts of up to 77"):
        complete_with(
            Prompt(text="fog " * 71),
            guide_weights=only_the_other,
            templates=["one two three {prompt} four five six"],
        )


def test_what_may_be_no_token_at_all_is_not_counted():
    assert complete_with(Prompt(text="a cat " + "&nbsp; . \x01 " * 60))


def test_weights_are_for_guides_and_leave_one():
    for weights, code in (({"ViT-L-14": 1}, "unknown_guide"), ({"demo-icons": 0, "ViT-B-32": 0}, "no_guide")):
        with pytest.raises(InvalidRequest) as refused:
            complete_with(Prompt(text="a cat"), guide_weights=weights)
        assert (refused.value.pointer, refused.value.code) == ("/options/guide_weights", code)
    assert complete_with(Prompt(text="a cat"), guide_weights={"ViT-B-32": 0.5})


def test_a_judge_is_no_guide():
    assert JobSettings(judge="demo-photo").network_names.held_out == "demo-photo"
    with pytest.raises(ValidationError, match="judge must not be a guide"):
        JobSettings(guides=("demo-icons", "demo-photo"), judge="demo-photo")
