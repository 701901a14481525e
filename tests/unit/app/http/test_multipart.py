"""Forms are the same in whatever pieces they come, and cost no more than they hold."""

import random
import tracemalloc

import pytest

from app.http.multipart import FormSplitter

HEAD = b'--mark\r\nContent-Disposition: form-data; name="model"\r\n\r\ndemo\r\n'
FILE = b'--mark\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
DATA = random.Random(0).randbytes(50_000) + b"\r\n--mar"  # nearly a boundary


def parts_of(body: bytes, size: int) -> list[tuple[str, str | bytes]]:
    form = FormSplitter("multipart/form-data; boundary=mark")
    parts = [part for place in range(0, len(body), size) for part in form.feed(body[place : place + size])]
    form.close()
    return parts


@pytest.mark.parametrize("size", [1, 7, 4095, 4096, 65_536])
def test_the_parts_are_the_same_in_whatever_pieces_they_come(size: int) -> None:
    body = HEAD + FILE + DATA + b"\r\n--mark--\r\n"
    assert parts_of(body, size) == [("model", "demo"), ("image", DATA)]


def test_a_file_in_single_bytes_takes_no_more_memory_than_it_has() -> None:
    form = FormSplitter("multipart/form-data; boundary=mark")
    form.feed(FILE)
    tracemalloc.start()
    try:
        for place in range(len(DATA) - 10):
            form.feed(DATA[place : place + 1])
        assert tracemalloc.get_traced_memory()[0] < 1.5 * len(DATA)
    finally:
        tracemalloc.stop()


def test_the_size_of_a_part_is_told_as_it_grows() -> None:
    sizes: list[int] = []
    form = FormSplitter("multipart/form-data; boundary=mark", check=sizes.append)
    for piece in (FILE, b"abc", b"defgh", b"\r\n--mark--\r\n"):
        form.feed(piece)
    assert sizes == [3, 8]
