"""Bodies are JSON and nothing but JSON; every fault of a request is told with its place."""

import pytest

from app.clip.schemas import ClassifyRequest, EmbeddingsRequest
from app.http.body import InvalidBody, LimitExceeded, check_limit, parse_json, validate
from app.http.multipart import MalformedBody
from app.jobs.schemas import JobRequest


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a": "\xff"}',
        b"{",
        b"\x00",
        b'{"a": 1} {}',
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        parse_json(body)


def test_a_field_said_twice_is_refused() -> None:
    with pytest.raises(InvalidBody) as refused:
        parse_json(b'{"a": {"b": 1, "b": 2}}')
    assert refused.value.faults[0].code == "duplicate_field"


def test_all_faults_are_told_with_pointers() -> None:
    with pytest.raises(InvalidBody) as refused:
        validate(
            ClassifyRequest, {"images": [], "labels": ["a", 5], "top_k": "3", "lables/~": 1}, strict=True
        )
    assert {(fault.pointer, fault.code) for fault in refused.value.faults} == {
        ("#/images", "too_short"),
        ("#/labels/1", "string_type"),
        ("#/top_k", "int_type"),
        ("#/lables~1~0", "extra_forbidden"),
    }


def test_a_template_without_its_place_is_refused() -> None:
    with pytest.raises(InvalidBody, match="#/templates/0"):
        validate(ClassifyRequest, {"images": ["x"], "labels": ["a"], "templates": ["a photo"]}, strict=True)


def test_a_bare_text_is_one_input() -> None:
    asked = validate(EmbeddingsRequest, {"input": "a fox"}, strict=True)
    assert [(item.text, item.image) for item in asked.input] == [("a fox", None)]


@pytest.mark.parametrize("item", [{}, {"text": "a", "image": "b"}, {"text": ""}, [1, 2], 7, None])
def test_an_input_is_a_text_or_an_image(item: object) -> None:
    with pytest.raises(InvalidBody) as refused:
        validate(EmbeddingsRequest, {"input": ["good", item]}, strict=True)
    assert refused.value.faults[0].pointer.startswith("#/input/1")


def test_a_job_needs_a_prompt() -> None:
    with pytest.raises(InvalidBody, match="say prompt, prompts or both"):
        validate(JobRequest, {}, strict=True)


def test_half_a_surrogate_pair_in_a_name_can_be_told_of() -> None:
    with pytest.raises(InvalidBody) as refused:
        validate(ClassifyRequest, parse_json(b'{"\\ud800": 1}'), strict=True)
    for fault in refused.value.faults:
        (fault.pointer + fault.detail).encode()


def test_a_limit_is_named_with_its_number() -> None:
    check_limit("#/labels", 4, 4, "labels")
    with pytest.raises(LimitExceeded, match="5 labels; at most 4 are allowed"):
        check_limit("#/labels", 5, 4, "labels")
