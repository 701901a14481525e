"""Images of an uploaded tar, which the store has in parts. Nothing is ever unpacked to a disk."""

import io
import tarfile
from collections import OrderedDict
from collections.abc import Iterator
from threading import Lock
from typing import Any

from jobs.index_request import PART_BYTES, archive_key
from storage.blobs import KeyMissing, Store
from workers.indexing.sources import (
    Content,
    Entry,
    EntryRefused,
    is_image,
    refusing,
    sidecar_of,
)
from workers.indexing.sources.sidecars import parse
from workers.runner.job_errors import JobFailed
from workers.settings import WorkerSettings

MAX_HEADER_BYTES = 2**20  # the library reads headers whole, however long they say they are
MAX_SIDECARS = 200_000
PARTS_KEPT = 4  # in memory


class Archive:
    """An image's id is its name in the archive.

    Args:
        size: bytes of the archive.
    """

    def __init__(self, job_id: str, size: int, settings: WorkerSettings, store: Store) -> None:
        self._bytes = _Bytes(job_id, size, store)
        self._size = size
        self._settings = settings
        self._sidecars: dict[str, tuple[int, int]] = {}  # where each is, and its size

    def count(self) -> int:
        """Finds the files with metadata, too."""
        images = 0
        for member, name in self._members():
            images += is_image(name)
            if name.endswith(".json") and member.isreg():
                self._sidecars[name] = (member.offset_data, member.size)
                if len(self._sidecars) > MAX_SIDECARS:
                    raise JobFailed("archive_refused", f"it has more than {MAX_SIDECARS} JSON files")
        return images

    def entries(self, after: Any = None) -> Iterator[Entry]:
        for member, name in self._members():
            if not is_image(name) or (after is not None and member.offset <= after):
                continue
            read = refusing("link", "links are not followed")
            if member.isreg() and not member.issparse():
                read = lambda at=member.offset_data, size=member.size, name=name: self._read(at, size, name)  # type: ignore[misc]  # noqa: E731
            elif not (member.issym() or member.islnk()):
                read = refusing("unreadable", "not a regular file")
            yield Entry(name, member.offset, read)

    def close(self) -> None:
        return

    def _members(self) -> Iterator[tuple[tarfile.TarInfo, str]]:
        at = -1
        try:
            with tarfile.open(fileobj=_Headers(self._bytes), mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # else it remembers every one
                    if member.offset <= at:
                        raise tarfile.ReadError("it goes round in circles")
                    at = member.offset
                    yield member, member.name.removeprefix("./")
        except (tarfile.TarError, ValueError, OverflowError, IndexError, KeyError, EOFError) as error:
            where = "its start" if at < 0 else f"byte {at}"
            raise JobFailed(
                "archive_unreadable", f"not a tar that can be read; it is damaged after {where}"
            ) from error

    def _read(self, at: int, size: int, name: str) -> Content:
        most = self._settings.max_index_file_bytes
        if size > most:
            raise EntryRefused("file_too_large", f"{size} bytes; at most {most} are taken")
        if at + size > self._size:
            raise EntryRefused("unreadable", "the archive ends before it")
        metadata: dict[str, Any] = {}
        if name_of := self._sidecars.get(sidecar_of(name)):
            longest = self._settings.max_metadata_bytes
            metadata = parse(self._bytes.read(name_of[0], min(name_of[1], longest + 1)), longest)
        return Content(self._bytes.read(at, size), metadata)


class _Bytes:
    """The archive's bytes; any thread may read them."""

    def __init__(self, job_id: str, size: int, store: Store) -> None:
        self.size = size
        self._job_id, self._store = job_id, store
        self._parts: OrderedDict[int, bytes] = OrderedDict()
        self._lock = Lock()

    def read(self, at: int, count: int) -> bytes:
        """So many bytes from there on; fewer at the end."""
        pieces: list[bytes] = []
        end = min(at + count, self.size)
        while at < end:
            part, start = divmod(at, PART_BYTES)
            pieces.append(self._part(part)[start : start + end - at])
            at = (part + 1) * PART_BYTES
        return b"".join(pieces)

    def _part(self, index: int) -> bytes:
        with self._lock:
            if index in self._parts:
                self._parts.move_to_end(index)
                return self._parts[index]
            try:
                data = self._store.read(archive_key(self._job_id, index))
            except KeyMissing:
                raise JobFailed("archive_missing", "the archive is no longer kept") from None
            self._parts[index] = data
            if len(self._parts) > PARTS_KEPT:
                self._parts.popitem(last=False)
            return data


class _Headers(io.RawIOBase):
    """What tarfile reads: headers, and nothing that is long."""

    def __init__(self, data: _Bytes) -> None:
        super().__init__()
        self._data, self._at = data, 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError("a header that is too long")
        found = self._data.read(self._at, size)
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._data.size}[whence]
        if self._at < 0:
            raise tarfile.ReadError("before its start")
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
