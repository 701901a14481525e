"""Images of a folder below one of the allowed roots. No link is followed, whoever makes one when."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

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

Parts = tuple[str, ...]  # of a path below the root

MAX_DEPTH = 100
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not make anyone wait


class Folder:
    """An image's id is its path, the root's name first.

    Args:
        folder: the name of a root and a path below it, such as `photos/2024`.
    """

    def __init__(self, folder: str, settings: WorkerSettings) -> None:
        name, *below = folder.split("/")
        root = settings.index_roots.get(name)
        if root is None or any(part in ("", ".", "..") for part in below):
            raise JobFailed("folder_not_allowed", f"the worker may not index {folder}")
        self._name, self._root, self._below = name, root, tuple(below)
        self._settings = settings
        try:
            os.close(self._open(self._below, os.O_DIRECTORY))
        except OSError as error:
            raise JobFailed("folder_not_found", f"the worker has no folder {folder}") from error

    def count(self) -> int:
        return sum(1 for _ in self.entries())

    def entries(self, after: Any = None) -> Iterator[Entry]:
        yield from self._walk(self._below, None if after is None else tuple(after))

    def close(self) -> None:
        return

    def _walk(self, folder: Parts, after: Parts | None) -> Iterator[Entry]:
        """In order of the parts of paths, so that a place says what is before it."""
        try:
            descriptor = self._open(folder, os.O_DIRECTORY)
        except OSError:
            if folder == self._below:
                raise JobFailed("folder_not_found", "the folder is no longer there") from None
            return  # removed meanwhile, or not for this process to read
        try:
            with os.scandir(descriptor) as found:
                items = sorted(
                    (item.name, item.is_symlink(), item.is_dir(follow_symlinks=False)) for item in found
                )
        finally:
            os.close(descriptor)
        for name, is_link, is_folder in items:
            path = (*folder, name)
            if name.startswith(".") or (after is not None and path < after[: len(path)]):
                continue
            if is_folder and not is_link and len(path) < MAX_DEPTH:
                yield from self._walk(path, after)
            elif after is not None and path <= after:
                continue
            elif is_link:
                yield self._entry(path, refusing("link", "links are not followed"))
            elif is_folder:
                yield self._entry(path, refusing("too_deep", f"more than {MAX_DEPTH} folders deep"))
            elif is_image(name):
                yield self._entry(path, lambda path=path: self._read(path))

    def _entry(self, path: Parts, read: Any) -> Entry:
        return Entry("/".join((self._name, *path)), list(path), read)

    def _read(self, path: Parts) -> Content:
        most = self._settings.max_metadata_bytes
        data = self._file(path, self._settings.max_index_file_bytes)
        sidecar = self._file((*path[:-1], sidecar_of(path[-1])), most, there=False)
        return Content(data, parse(sidecar, most) if sidecar else {})

    def _file(self, path: Parts, most: int, *, there: bool = True) -> bytes:
        """A file's bytes, one more than `most` at the most; none if it need not be there."""
        try:
            descriptor = self._open(path)
        except FileNotFoundError:
            if there:
                raise EntryRefused("unreadable", "the file is gone") from None
            return b""
        except OSError as error:
            link = error.errno in (errno.ELOOP, errno.ENOTDIR)
            detail = "links are not followed" if link else "the worker may not read the file"
            raise EntryRefused("link" if link else "unreadable", detail) from error
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise EntryRefused("unreadable", "not a regular file")
            try:
                data = file.read(most + 1)
            except OSError as error:
                raise EntryRefused("unreadable", "the file cannot be read") from error
        if there and len(data) > most:
            raise EntryRefused("file_too_large", f"more than {most} bytes")
        return data

    def _open(self, path: Sequence[str], flags: int = 0) -> int:
        """A descriptor, opened part by part from the root: nothing on the way is a link."""
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for index, part in enumerate(path):
            last = index == len(path) - 1
            try:
                following = os.open(part, _FLAGS | (flags if last else os.O_DIRECTORY), dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = following
        return descriptor
