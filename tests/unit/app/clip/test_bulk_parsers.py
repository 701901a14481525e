"""Bulk bodies are taken apart the same however they are cut on the way, and what is broken is told."""

import contextlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers

from app.clip.bulk_parsers import BulkItem, FormItems, LineSplitter, Splitter, TarSplitter, splitter_of
from app.http.body import InvalidBody
from app.http.errors import BodyTooLarge
from app.http.multipart import MalformedBody

FILES = {"a.png": b"A" * 700, "folder/" + "long" * 60 + ".png": b"", "ö.jpg": b"B" * 512, "c": b"C"}


def tar(format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def form(*parts: tuple[str, bytes], boundary: str = "b") -> bytes:
    lines = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        + (b'; filename="x"' if name == "image" else b"")
        + b"\r\n\r\n"
        + data
        + b"\r\n"
        for name, data in parts
    ]
    return b"".join(lines) + f"--{boundary}--\r\n".encode()


def split(splitter: Splitter, pieces: Iterable[bytes]) -> list[BulkItem]:
    items = [item for piece in pieces for item in splitter.feed(piece)]
    return [*items, *splitter.close()]


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 7, 511, 512, 513, 100_000])
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_archive_gives_its_files_in_order(format: int, size: int) -> None:
    items = split(TarSplitter(1000), cut(tar(format), size))
    assert [item.image for item in items] == list(FILES.values())


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_lines_give_texts_and_pictures(size: int) -> None:
    lines = [json.dumps("a fox"), "", json.dumps({"image": "AAAA"}), json.dumps({"text": "an ö"})]
    for end in ("", "\n", "\r\n"):
        body = ("\r\n".join(lines) + end).encode()
        items = split(LineSplitter(1000), cut(body, size))
        assert items == [BulkItem("a fox"), BulkItem(image="AAAA"), BulkItem("an ö")]


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_form_gives_its_parts(size: int) -> None:
    body = form(("image", b"\r\n--x" * 9), ("text", "an ö".encode()), ("image", b""))
    items = split(FormItems("multipart/form-data; boundary=b", 1000), cut(body, size))
    assert items == [BulkItem(image=b"\r\n--x" * 9), BulkItem("an ö"), BulkItem(image=b"")]


@pytest.mark.parametrize(
    ("make", "body", "word"),
    [
        (TarSplitter, tar()[:1600], "cut off"),
        (TarSplitter, tar()[:100], "cut off"),
        (TarSplitter, b"x" * 2000, "after 0 files"),
        (LineSplitter, b'"a"\n{"text"\n', "#/1: not JSON"),
        (lambda most: FormItems("multipart/form-data; boundary=b", most), form(("text", b"a"))[:-9], "end"),
        (lambda most: FormItems("multipart/form-data; boundary=b", most), b"nonsense", "cannot be parsed"),
        (lambda most: FormItems("multipart/form-data", most), b"", "boundary"),
    ],
)
def test_a_broken_body_is_told(make: Callable[[int], Splitter], body: bytes, word: str) -> None:
    with pytest.raises(MalformedBody, match=word):
        split(make(1000), cut(body, 64))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-tar", tar()),
        ("application/x-ndjson", b'"a"\n' + b" " * 10**6),
        ("multipart/form-data; boundary=b", form(("text", b"a"), ("image", b"x" * 10**6))),
    ],
)
def test_an_item_without_end_is_cut_off_before_it_is_kept(kind: str, body: bytes) -> None:
    splitter = splitter_of(Headers({"content-type": kind}), 600)
    with pytest.raises(BodyTooLarge, match=r"#/[01] is longer than 600 bytes"):
        split(splitter, cut(body, 64))


@pytest.mark.parametrize(
    ("make", "body", "pointer"),
    [
        (LineSplitter, b'"a"\n{"txt": "b"}', "#/1/txt"),
        (LineSplitter, b'"a"\n""', "#/1/text"),
        (LineSplitter, b"7", "#/0"),
        (lambda most: FormItems("multipart/form-data; boundary=b", most), form(("model", b"x")), "#/0"),
        (lambda most: FormItems("multipart/form-data; boundary=b", most), form(("text", b"")), "#/0"),
    ],
)
def test_what_is_no_item_is_told_with_its_place(
    make: Callable[[int], Splitter], body: bytes, pointer: str
) -> None:
    with pytest.raises(InvalidBody) as caught:
        split(make(1000), [body])
    assert caught.value.faults[0].pointer == pointer


def test_a_file_of_fewer_bytes_than_none_is_told() -> None:
    block = bytearray(tarfile.TarInfo("a").tobuf())
    block[124:136] = b"\xff" * 11 + b"\x00"  # -256, as GNU tar writes it
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(MalformedBody):
        split(TarSplitter(1000), [bytes(block), bytes(2000)])


@given(
    kind=st.sampled_from(["application/x-tar", "application/x-ndjson", "multipart/form-data; boundary=b"]),
    changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=6),
    size=st.integers(1, 700),
)
@settings(max_examples=300, deadline=None)
def test_whatever_is_sent_is_items_or_told_to_be_none(
    kind: str, changes: list[tuple[int, int]], size: int
) -> None:
    bodies = {
        "application/x-tar": tar(),
        "application/x-ndjson": b'"a fox"\n{"image": "AAAA"}\n{"text": "\\u00f6"}\n',
        "multipart/form-data; boundary=b": form(("image", b"\r\n--x" * 9), ("text", b"a")),
    }
    body = bytearray(bodies[kind])
    for place, byte in changes:
        body[place % len(body)] = byte
    with contextlib.suppress(MalformedBody, InvalidBody, BodyTooLarge):
        items = split(splitter_of(Headers({"content-type": kind}), 10_000), cut(bytes(body), size))
        assert all((item.text is None) != (item.image is None) for item in items)
