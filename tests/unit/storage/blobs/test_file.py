"""What is kept in a folder appears whole or not at all, and nothing outside of it can be named."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from storage.blobs import KeyMissing, StorageFull, StoreUnavailable, UnknownStore, file, open_store
from storage.blobs.file import FileStore


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    opened = open_store((tmp_path / "a store").as_uri())
    assert isinstance(opened, FileStore)
    return opened


def test_what_was_kept_is_read_back_and_replaced(store: FileStore) -> None:
    store.save("job_a/t/image-0.png", b"one")
    store.save("job_a/t/image-0.png", b"two")
    assert store.read("job_a/t/image-0.png") == b"two"
    assert [name for name, _ in store.folders()] == ["job_a"]


def test_delete_drops_a_key_or_a_folder_and_minds_nothing_that_is_gone(store: FileStore) -> None:
    for name in ("a", "b"):
        store.save(f"job_a/{name}/image-0.png", b"x")
    store.delete("job_a/a/image-0.png")
    with pytest.raises(KeyMissing):
        store.read("job_a/a/image-0.png")
    store.delete("job_a")
    store.delete("job_a")
    with pytest.raises(KeyMissing):
        store.read("job_a/b/image-0.png")


@pytest.mark.parametrize(
    "key", ["../x/y", "a/../../x", "/etc/passwd", "a//b", "a/.hidden", "", "a/", "a/b\n", "a/b/.."]
)
def test_a_key_names_nothing_outside_the_store(store: FileStore, key: str) -> None:
    for act in (lambda: store.read(key), lambda: store.save(key, b"x")):
        with pytest.raises(ValueError, match="not a key"):
            act()


def test_a_full_disk_leaves_no_part_of_a_file(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save("job_a/t/image-0.png", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull):
        store.save("job_a/t/image-0.png", b"new")
    assert [path.name for path in (store.root / "job_a/t").iterdir()] == ["image-0.png"]
    assert store.read("job_a/t/image-0.png") == b"old"


def test_a_store_with_little_room_says_so(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.check()
    monkeypatch.setattr(file, "MIN_FREE_BYTES", 10**18)
    with pytest.raises(StorageFull, match="MB are left"):
        store.check()
    shutil.rmtree(store.root)
    with pytest.raises(StoreUnavailable):
        store.check()


@pytest.mark.parametrize("url", ["ftp://x/y", "file://host/x", "file:relative", "nothing", "../x://y"])
def test_a_store_nobody_serves_is_refused_by_name(url: str) -> None:
    with pytest.raises(UnknownStore):
        open_store(url)
