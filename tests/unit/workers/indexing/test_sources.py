"""Sources list their images always in the same order; nothing outside of them can be read through them."""

import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.index_request import PART_BYTES, archive_key
from storage.blobs.file import FileStore
from workers.indexing.sources import Content, EntryRefused, Source
from workers.indexing.sources.archive import Archive
from workers.indexing.sources.folder import Folder
from workers.runner.job_errors import JobFailed
from workers.settings import WorkerSettings

JOB = "job_00000000000000000000000000"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    for name in ("b.jpg", "a/z.png", "a/b/y.JPEG", "a.jpg", "a/.hidden.jpg", ".git/c.jpg", "notes.txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (folder / "a/z.json").write_text('{"year": 1990}')
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return folder


def folder_of(root: Path, name: str = "photos", **settings: Any) -> Folder:
    return Folder(name, WorkerSettings(index_roots={"photos": root}, **settings))


def outcomes(source: Source, after: Any = None) -> dict[str, Any]:
    """By its id, what each entry holds, or the code with which it is refused."""
    found: dict[str, Any] = {}
    for entry in source.entries(after):
        try:
            found[entry.id] = entry.read()
        except EntryRefused as refused:
            found[entry.id] = refused.code
    return found


ORDERED = ["photos/a/b/y.JPEG", "photos/a/z.png", "photos/a.jpg", "photos/b.jpg"]


def test_a_folder_lists_its_images_in_order_with_their_metadata(root: Path) -> None:
    folder = folder_of(root)
    found = outcomes(folder)
    assert [*found] == ORDERED
    assert folder.count() == 4
    assert found["photos/a/z.png"] == Content(b"a/z.png", {"year": 1990})
    assert found["photos/b.jpg"] == Content(b"b.jpg")


def test_a_folder_goes_on_after_any_place_even_one_that_is_gone(root: Path) -> None:
    folder = folder_of(root)
    places = [entry.place for entry in folder.entries()]
    for index, place in enumerate(places):
        assert [*outcomes(folder, place)] == ORDERED[index + 1 :]
    (root / "a/z.png").unlink()
    assert [*outcomes(folder, places[1])] == ORDERED[2:]
    assert [*outcomes(folder, places[0])] == ORDERED[2:]


def test_a_folder_below_a_root_has_the_same_ids(root: Path) -> None:
    assert [*outcomes(folder_of(root, "photos/a"))] == ORDERED[:2]
    assert [*outcomes(folder_of(root, "photos/a/b"))] == ORDERED[:1]


@pytest.mark.parametrize(
    "name", ["other", "photos/..", "photos/a/../..", "photos//a", "photos/", "/etc", "..", "", "photos/./a"]
)
def test_a_path_that_leaves_the_roots_is_refused(root: Path, name: str) -> None:
    with pytest.raises(JobFailed) as refused:
        folder_of(root, name)
    assert refused.value.code == "folder_not_allowed"


def test_no_link_is_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.jpg").write_bytes(b"secret")
    (root / "c.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "d").symlink_to(outside)
    found = outcomes(folder_of(root))
    assert (found["photos/c.jpg"], found["photos/d"]) == ("link", "link")
    assert not any(isinstance(item, Content) and item.data == b"secret" for item in found.values())
    for name in ("photos/d", "photos/missing"):
        with pytest.raises(JobFailed) as refused:
            folder_of(root, name)
        assert refused.value.code == "folder_not_found"


@pytest.mark.parametrize("swapped", ["b.jpg", "a"])
def test_a_link_that_is_put_in_place_of_a_file_or_folder_meanwhile_is_not_followed(
    root: Path, tmp_path: Path, swapped: str
) -> None:
    entries = {entry.id: entry for entry in folder_of(root).entries()}
    (root / swapped).rename(tmp_path / "old")
    (tmp_path / "z.png").write_bytes(b"secret")
    (root / swapped).symlink_to(tmp_path / "secret.jpg" if swapped == "b.jpg" else tmp_path)
    with pytest.raises(EntryRefused) as refused:
        entries["photos/b.jpg" if swapped == "b.jpg" else "photos/a/z.png"].read()
    assert refused.value.code == "link"


def test_pipes_long_files_and_wrong_metadata_are_refused_one_by_one(root: Path) -> None:
    os.mkfifo(root / "pipe.jpg")
    (root / "long.jpg").write_bytes(b"x" * 2000)
    (root / "a/b/y.json").write_text('{"$url": 1}')
    (root / "b.json").write_text("[" * 100_000)
    (root / "a.json").write_text('{"text": "' + "x" * 5000 + '"}')
    found = outcomes(folder_of(root, max_index_file_bytes=1024))
    assert found["photos/pipe.jpg"] == "unreadable"
    assert found["photos/long.jpg"] == "file_too_large"
    assert [found[ORDERED[index]] for index in (0, 2, 3)] == ["metadata_refused"] * 3
    assert found["photos/a/z.png"] == Content(b"a/z.png", {"year": 1990})


def archived(*members: tuple[str, bytes | None, dict[str, Any]], format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, data, fields in members:
            member = tarfile.TarInfo(name)
            member.size = len(data or b"")
            for field, value in fields.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(data or b""))
    return file.getvalue()


Open = Callable[..., Archive]


@pytest.fixture
def archive(tmp_path: Path) -> Open:
    """Keeps a tar as the API does, and opens it as a worker does."""

    def open_(data: bytes, **settings: Any) -> Archive:
        store = FileStore(tmp_path / "store")
        for start in range(0, len(data), PART_BYTES):
            store.save(archive_key(JOB, start // PART_BYTES), data[start : start + PART_BYTES])
        return Archive(JOB, len(data), WorkerSettings(**settings), store)

    return open_


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_lists_its_images_in_order_with_their_metadata(archive: Open, format: int) -> None:
    long = f"{'folder/' * 20}x.jpg"
    source = archive(
        archived(
            ("./b.jpg", b"b", {}),
            ("a.json", b'{"year": 1990}', {}),
            ("a.png", b"a", {}),
            (".hidden.jpg", b"h", {}),
            ("d", None, {"type": tarfile.DIRTYPE}),
            (long, b"long", {}),
            format=format,
        )
    )
    assert source.count() == 3
    assert outcomes(source) == {
        "b.jpg": Content(b"b"),
        "a.png": Content(b"a", {"year": 1990}),
        long: Content(b"long"),
    }
    places = [entry.place for entry in source.entries()]
    assert [*outcomes(source, places[0])] == ["a.png", long]
    assert outcomes(source, places[2]) == {}


def test_a_tar_of_several_parts_is_read_across_them(archive: Open) -> None:
    images = [os.urandom(3_000_000) for _ in range(7)]
    source = archive(archived(*((f"{index}.jpg", data, {}) for index, data in enumerate(images))))
    assert source.count() == 7
    assert [content.data for content in outcomes(source).values()] == images


def test_links_devices_and_long_files_of_a_tar_are_refused(archive: Open) -> None:
    found = outcomes(
        archive(
            archived(
                ("symbolic.jpg", None, {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
                ("hard.jpg", None, {"type": tarfile.LNKTYPE, "linkname": "b.jpg"}),
                ("pipe.jpg", None, {"type": tarfile.FIFOTYPE}),
                ("disk.jpg", None, {"type": tarfile.BLKTYPE}),
                ("long.jpg", b"x" * 2000, {}),
                ("b.jpg", b"b", {}),
            ),
            max_index_file_bytes=1024,
        )
    )
    assert found == {
        "symbolic.jpg": "link",
        "hard.jpg": "link",
        "pipe.jpg": "unreadable",
        "disk.jpg": "unreadable",
        "long.jpg": "file_too_large",
        "b.jpg": Content(b"b"),
    }


def sparse() -> bytes:
    """A file of 8 TB of which the tar holds 512 bytes."""
    return archived(("s.jpg", b"x" * 512, {"pax_headers": {
        "GNU.sparse.map": "0,512", "GNU.sparse.size": str(2**43), "GNU.sparse.numblocks": "1",
        "GNU.sparse.name": "s.jpg", "GNU.sparse.major": "0", "GNU.sparse.minor": "1",
    }}))  # fmt: skip


def test_a_sparse_file_is_refused(archive: Open) -> None:
    assert set(outcomes(archive(sparse())).values()) <= {"unreadable", "file_too_large"}


def bomb() -> bytes:
    """A header that says it is 4 MB long, and is."""
    return archived(("x.jpg", b"x", {"pax_headers": {"comment": "x" * 4_000_000}}))


def cut(data: bytes, at: int) -> bytes:
    return data[:at]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bomb(), id="a header as a bomb"),
        pytest.param(b"x" * 2000, id="no tar"),
        pytest.param(cut(archived(("a.jpg", b"x" * 5000, {}), ("b.jpg", b"y" * 5000, {})), 8000), id="cut"),
    ],
)
def test_what_is_no_tar_ends_the_job_and_nothing_else(archive: Open, data: bytes) -> None:
    with pytest.raises(JobFailed) as refused:
        archive(data).count()
    assert refused.value.code == "archive_unreadable"


def test_damaged_tars_are_read_or_refused_but_nothing_else(archive: Open) -> None:
    rng = random.Random(4)
    whole = archived(*((f"{index}.jpg", b"x" * 700, {}) for index in range(6)), ("s.json", b"{}", {}))
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(6):
            data[rng.randrange(len(data))] = rng.randrange(256)
        source = archive(bytes(data), max_index_file_bytes=10_000)
        try:
            source.count()
            outcomes(source)
        except JobFailed:
            continue
