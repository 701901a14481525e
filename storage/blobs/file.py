"""`file://`: a folder that the API and every worker see. Files appear whole or not at all."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from storage.blobs import KeyMissing, StorageFull, Store, StoreUnavailable, UnknownStore, check_key

MIN_FREE_BYTES = 200_000_000  # less is not ready: previews and checkpoints need room as well as images


class FileStore:
    """Keeps each key as one file below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def save(self, key: str, data: bytes) -> None:
        path = self.root / check_key(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        # a name that no key can have, in the same folder: a rename within one file system is atomic
        descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException as error:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(error.errno, "no room left in the store") from error
            raise
        _sync_folder(path.parent)

    def read(self, key: str) -> bytes:
        try:
            return (self.root / check_key(key)).read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise KeyMissing(key) from error

    def delete(self, prefix: str) -> None:
        path = self.root / check_key(prefix)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def check(self) -> None:
        try:
            free = shutil.disk_usage(self.root).free
        except OSError as error:
            raise StoreUnavailable("the folder of the store cannot be read") from error
        if free < MIN_FREE_BYTES:
            raise StorageFull(errno.ENOSPC, f"{free / 1e6:.0f} MB are left in the store")

    def folders(self) -> Iterator[tuple[str, float]]:
        for entry in self.root.iterdir():
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                yield entry.name, entry.stat().st_mtime


def open_store(url: str) -> Store:
    """The folder that a `file:///absolute/path` URL names; it is made if it is missing."""
    parts = urlsplit(url)
    if parts.netloc or not parts.path.startswith("/"):
        raise UnknownStore(f"a file store needs an absolute path, file:///folder, not {url!r}")
    return FileStore(Path(unquote(parts.path)))


def _sync_folder(folder: Path) -> None:
    # the rename itself is on disk only when the folder is
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
