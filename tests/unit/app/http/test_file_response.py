"""Files answer ETags and ranges as RFC 9110 has it."""

import pytest
from fastapi import Response

from app.http.file_response import file_response

DATA = bytes(range(100))


def fetch(
    if_none_match: str | None = None, byte_range: str | None = None, if_range: str | None = None
) -> Response:
    return file_response(
        DATA,
        name="image-0.png",
        content_type="image/png",
        final=True,
        if_none_match=if_none_match,
        byte_range=byte_range,
        if_range=if_range,
    )


def test_the_etag_is_the_content_s_hash_and_answers_304() -> None:
    etag = fetch().headers["etag"]
    assert etag.startswith('"sha256-')
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        assert (fetch(known).status_code, fetch(known).body) == (304, b"")
    assert fetch('"other"').status_code == 200


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=90-", 90, 99),
        ("bytes=90-999", 90, 99),
        ("bytes=-5", 95, 99),
        ("bytes=-500", 0, 99),
    ],
)
def test_a_range_is_answered_in_part(asked: str, first: int, last: int) -> None:
    answer = fetch(byte_range=asked)
    assert (answer.status_code, answer.body) == (206, DATA[first : last + 1])
    assert answer.headers["content-range"] == f"bytes {first}-{last}/100"


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=200-300", "bytes=-0"])
def test_a_range_outside_the_file_is_416(asked: str) -> None:
    answer = fetch(byte_range=asked)
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */100")


@pytest.mark.parametrize("asked", ["bytes=5-4", "bytes=-", "bytes=0-1,5-6", "lines=1-2", "bytes=a-b"])
def test_what_is_no_single_range_is_answered_whole(asked: str) -> None:
    assert fetch(byte_range=asked).status_code == 200


def test_a_range_of_another_version_is_answered_whole() -> None:
    assert fetch(byte_range="bytes=0-1", if_range='"other"').status_code == 200
    assert fetch(byte_range="bytes=0-1", if_range=fetch().headers["etag"]).status_code == 206
