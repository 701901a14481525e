"""Where the images of an indexing job come from; a module each."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from jobs.record.record import Job
from storage.blobs import Store
from workers.settings import WorkerSettings

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


class EntryRefused(Exception):
    """An image that is not taken; the job goes on without it. The message is fit for the client."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True)
class Content:
    """What a source has of an image."""

    data: bytes  # the file
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source_url: str | None = None


@dataclass(frozen=True)
class Entry:
    """An image that a source has.

    Args:
        id: in the collection; the same each time.
        place: in the source, as JSON has it.
        read: fetches it; may be called on any thread.
    """

    id: str
    place: Any
    read: Callable[[], Content]  # raises ImageRefused


class Source(Protocol):
    """Where images come from, always in the same order.

    Every method may raise JobFailed.
    """

    def count(self) -> int:
        """How many entries there are."""

    def entries(self, after: Any = None) -> Iterator[Entry]:
        """All of them, or those behind a place."""

    def close(self) -> None:
        """Give up what is still being read."""


def open_source(job: Job, settings: WorkerSettings, store: Store) -> Source:
    """The source that a job's request names.

    Raises:
        JobFailed: it is not there, or not allowed.
    """
    from workers.indexing.sources.archive import Archive
    from workers.indexing.sources.folder import Folder
    from workers.indexing.sources.urls import Urls

    request = job.indexing
    if request.folder is not None:
        return Folder(request.folder, settings)
    if request.archive is not None:
        return Archive(job.id, request.archive, settings, store)
    return Urls(job, settings, store)


def refusing(code: str, detail: str) -> Callable[[], Content]:
    """An entry's `read` that refuses it."""

    def read() -> Content:
        raise EntryRefused(code, detail)

    return read


def is_image(name: str) -> bool:
    """Whether a file's name says that it is one, and is not hidden."""
    name = name.rpartition("/")[2]
    return not name.startswith(".") and f".{name.rpartition('.')[2].lower()}" in SUFFIXES


def sidecar_of(name: str) -> str:
    """The name of the JSON file that may hold an image's metadata: a/b.json of a/b.jpg."""
    return f"{name.rpartition('.')[0]}.json"
