"""Send more items than one request may hold, in pieces that fit, without those that the service refuses."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from clipcanvas.client import endpoints
from clipcanvas.client.collections import endpoints as collection_endpoints
from clipcanvas.client.collections.collection import Collection
from clipcanvas.client.collections.results import Added, NewImage
from clipcanvas.client.endpoints import ImageSource
from clipcanvas.client.errors import ApiError
from clipcanvas.client.results import Classification, Embedding, RefusedItem
from clipcanvas.client.transport import Call, Flow, Sending

PIECE_ITEMS = 32
PIECE_BYTES = 16 * 2**20  # of files; base64 makes a third more of them, and a request has at most 32 MiB
BULK_ITEMS = 256  # in a bulk request, which may have more: `progress` is called after each
BULK_BYTES = 64 * 2**20
_PLACE = re.compile(r"#/(?:images/)?(\d+)(?:/|$)")

Row = TypeVar("Row")
RowOf = TypeVar("RowOf", covariant=True)
Progress = Callable[[int], None]


@dataclass
class Many(Generic[Row]):
    """The results of many items.

    Attributes:
        data: one row for each item, in the order given; None for one that failed.
        failed: the reason, by the place of the item.
    """

    data: list[Row | None]
    failed: dict[int, str] = field(default_factory=dict)


class _Rows(Protocol[RowOf]):
    @property
    def data(self) -> Sequence[RowOf]: ...


class Batch(Generic[Row]):
    """The requests for many items, one after the other; independent of the client that sends them.

    Send each call of `calls`, and pass its outcome to `take` or `refuse` before the next.

    Args:
        load: returns what to send for an item; an OSError or a ValueError fails that item alone.
        request: makes the request for some loaded items.
        most: items in a request, at most.
        most_bytes: of files in a request, unless one has more.
        progress: called after each request with the number of items done.
    """

    def __init__(
        self,
        items: Sequence[Any],
        load: Callable[[Any], Any],
        request: Callable[[list[Any]], Call[Any]],
        *,
        most: int = PIECE_ITEMS,
        most_bytes: int = PIECE_BYTES,
        progress: Progress | None = None,
    ) -> None:
        self.outcome: Many[Row] = Many([None] * len(items))
        self._items, self._load, self._request = items, load, request
        self._most, self._most_bytes = most, most_bytes
        self._progress = progress
        self._piece: list[tuple[int, Any]] = []  # loaded items and their places, not answered yet

    def calls(self) -> Iterator[Call[Any]]:
        """The requests; which come next depends on what became of those before."""
        start = 0
        while start < len(self._items):
            start = self._take_piece(start)
            while self._piece:
                yield self._request([item for _, item in self._piece])
            if self._progress:
                self._progress(start)

    def take(self, answer: _Rows[Row]) -> None:
        """Keep the rows of a response."""
        for (place, _), row in zip(self._piece, answer.data, strict=True):
            if isinstance(row, RefusedItem):
                self.outcome.failed[place] = row.error.get("detail", "")
            else:
                self.outcome.data[place] = _placed(row, place)
        self._piece = []

    def refuse(self, error: ApiError) -> None:
        """Record the items that an error names as failed; the others are sent again.

        Raises:
            ApiError: the error names no item.
        """
        refused = _refused(error, len(self._piece))
        if not refused:
            raise error
        self.outcome.failed |= {self._piece[index][0]: why for index, why in refused.items()}
        self._piece = [item for index, item in enumerate(self._piece) if index not in refused]

    def _take_piece(self, start: int) -> int:
        size = 0
        for place in range(start, min(start + self._most, len(self._items))):
            try:
                item = self._load(self._items[place])
            except (OSError, ValueError) as error:
                self.outcome.failed[place] = str(error)
                continue
            size += _bytes(item)
            if self._piece and size > self._most_bytes:
                return place
            self._piece.append((place, item))
        return min(start + self._most, len(self._items))


def answered(sending: Sending, batch: Batch[Row]) -> Flow[Many[Row]]:
    """The flow that sends all requests of a batch."""
    for call in batch.calls():
        try:
            batch.take((yield from sending(call)))
        except ApiError as error:
            batch.refuse(error)
    return batch.outcome


def classification(
    images: Sequence[ImageSource],
    labels: Sequence[str],
    *,
    templates: Sequence[str] | None = None,
    top_k: int | None = None,
    model: str | None = None,
    most: int = PIECE_ITEMS,
    progress: Progress | None = None,
) -> Batch[Classification]:
    """`classify` for any number of images.

    Args:
        most: images in a request, at most.
        progress: called after each request with the number of images done.
    """

    def request(some: list[Any]) -> Call[Any]:
        return endpoints.classify(some, labels, templates=templates, top_k=top_k, model=model)

    return Batch(
        images, lambda image: _content(image, str | os.PathLike), request, most=most, progress=progress
    )


def embedding(
    inputs: Sequence[str | ImageSource],
    *,
    model: str | None = None,
    dimensions: int | None = None,
    most: int = BULK_ITEMS,
    progress: Progress | None = None,
) -> Batch[Embedding]:
    """`embed` for any number of texts and images; `most` and `progress` as for `classify_many`."""

    def request(some: list[Any]) -> Call[Any]:
        return endpoints.embed_bulk(some, model=model, dimensions=dimensions)

    return Batch(
        inputs,
        lambda item: _content(item, os.PathLike),
        request,
        most=most,
        most_bytes=BULK_BYTES,
        progress=progress,
    )


def _placed(row: Any, place: int) -> Any:
    """The row, with its place among all items in place of its place in the request."""
    indexed = isinstance(row, Classification | Embedding)
    return row.model_copy(update={"index": place}) if indexed else row


def _content(item: Any, paths: Any) -> Any:
    """A file's bytes, anything else as it is."""
    is_url = isinstance(item, str) and item.startswith(("data:", "https://", "http://"))
    return Path(item).read_bytes() if isinstance(item, paths) and not is_url else item


def _bytes(item: Any) -> int:
    """Approximate size of an item in bytes; of a `NewImage`, the size of its image."""
    content = getattr(item, "image", item)
    if isinstance(content, str | bytes | bytearray):
        return len(content)
    return 3 * getattr(content, "width", 0) * getattr(content, "height", 0)  # a PIL image is sent as PNG


def _refused(error: ApiError, count: int) -> dict[int, str]:
    """The reason of each item that an error names, by its index; empty if it names none."""
    if error.code == "body_too_large" and count == 1:
        return {0: error.detail}
    if error.status not in (413, 415, 422):
        return {}
    places = ((_PLACE.match(fault.get("pointer", "")), fault.get("detail", "")) for fault in error.errors)
    return {int(match[1]): str(detail) for match, detail in places if match and int(match[1]) < count}


@dataclass
class Outcome:
    """The result of indexing a folder."""

    added: int = 0
    known: int = 0  # were there already
    failed: dict[str, str] = field(default_factory=dict)  # by their ids, and why


def find_images(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """The image files below a folder, sorted, without hidden files and folders."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def index_folder(
    collection: Collection,
    folder: Path,
    paths: Sequence[Path],
    *,
    again: bool = False,
    batch: int = PIECE_ITEMS,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Add images with their metadata; the id of each is its path in the folder, such as `a/b.jpg`.

    The metadata of `a/b.jpg` come from `a/b.json`, if that file exists.

    Args:
        again: also add images that the collection has already.
        progress: called after each batch with the number of images done.
    """
    ids = {path: path.relative_to(folder).as_posix() for path in paths}
    known = set() if again else {image.id for image in collection.every_image()}
    missing = [path for path in paths if ids[path] not in known]
    n_known = len(paths) - len(missing)
    progress(n_known)
    adding = Batch[Added](
        missing,
        lambda path: NewImage(path.read_bytes(), id=ids[path], metadata=_metadata(path)),
        lambda images: collection_endpoints.add(collection.name, images),
        most=batch,
        progress=lambda done: progress(n_known + done),
    )
    many = collection.transport.run(answered(collection.transport.sending, adding))
    failed = {ids[missing[place]]: why for place, why in many.failed.items()}
    return Outcome(added=len(missing) - len(failed), known=n_known, failed=failed)


def _metadata(path: Path) -> dict[str, object]:
    try:
        text = path.with_suffix(".json").read_text("utf-8")
    except FileNotFoundError:
        return {}
    metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise ValueError(f"{path.with_suffix('.json').name} holds no object")
    return metadata
