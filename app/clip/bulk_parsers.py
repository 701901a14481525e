"""Bodies of many items, parsed while they arrive: tar, lines of JSON, and forms."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pydantic import ValidationError
from starlette.datastructures import Headers

from app.http.body import LINES, MULTIPART, NPY, TAR, InvalidBody, content_type, faults_of, parse_json
from app.http.errors import BodyTooLarge, Fault
from app.http.fields import Item
from app.http.multipart import FormSplitter, MalformedBody

_BLOCK = 512  # bytes, of tar


def is_bulk(headers: Headers) -> bool:
    """Whether the body of a request for embeddings is embedded while it arrives."""
    kind = content_type(headers)
    return kind in (TAR, LINES) or (kind == MULTIPART and wants_npy(headers))


def wants_npy(headers: Headers) -> bool:
    """Whether the client asks for a NumPy file."""
    return NPY in headers.get("accept", "")


@dataclass(frozen=True)
class BulkItem:
    """A text or an image."""

    text: str | None = None
    image: str | bytes | None = None

    @property
    def size(self) -> int:
        """The number of bytes or characters."""
        return len(self.image or self.text or "")


class Splitter(Protocol):
    """Yields the items of a body in order, each when it is complete."""

    def feed(self, data: bytes) -> Iterator[BulkItem]:
        """The items that end in this piece of the body.

        Raises:
            app.http.body.MalformedBody, app.http.body.InvalidBody, app.http.errors.BodyTooLarge
        """

    def close(self) -> Iterator[BulkItem]:
        """The last items. Raises as `feed`, and MalformedBody if the end is missing."""


def splitter_of(headers: Headers, max_item_bytes: int) -> Splitter:
    """The splitter of a body that `is_bulk`. Raises MalformedBody: the form names no boundary."""
    match content_type(headers):
        case kind if kind == TAR:
            return TarSplitter(max_item_bytes)
        case kind if kind == LINES:
            return LineSplitter(max_item_bytes)
        case _:
            return FormItems(headers["content-type"], max_item_bytes)


class TarSplitter:
    """The images of a tar archive: every regular file, whatever its name."""

    def __init__(self, max_item_bytes: int) -> None:
        self._max_item_bytes = max_item_bytes
        self._buffer = bytearray()
        self._file: tarfile.TarInfo | None = None  # the file that is being read
        self._skip = 0  # bytes to come that are no image, with the padding
        self._count = 0
        self._ended = False

    def feed(self, data: bytes) -> Iterator[BulkItem]:
        if self._ended:  # tar fills its last record
            return
        self._buffer += data
        while not self._ended:
            skipped = min(self._skip, len(self._buffer))
            del self._buffer[:skipped]
            self._skip -= skipped
            if self._file is not None and len(self._buffer) >= self._file.size:
                item = BulkItem(image=bytes(self._buffer[: self._file.size]))
                del self._buffer[: self._file.size]
                self._skip = -self._file.size % _BLOCK
                self._file = None
                self._count += 1
                yield item
            elif self._file is None and not self._skip and len(self._buffer) >= _BLOCK:
                self._begin(bytes(self._buffer[:_BLOCK]))
                del self._buffer[:_BLOCK]
            else:
                return

    def close(self) -> Iterator[BulkItem]:
        if self._file is not None or self._skip or (self._buffer and not self._ended):
            raise MalformedBody("the tar archive is cut off")
        return iter(())

    def _begin(self, block: bytes) -> None:
        if not block.strip(b"\0"):
            self._ended = True
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if header.size < 0:
                raise tarfile.HeaderError
        except tarfile.HeaderError:
            raise MalformedBody(f"the tar archive cannot be parsed after {self._count} files") from None
        if header.isreg() and not header.issparse():
            _check_size(header.size, self._count, self._max_item_bytes)
            self._file = header
        else:
            self._skip = header.size + -header.size % _BLOCK


class LineSplitter:
    """Each line is a JSON value as in the `input` of embeddings: a text, {"text": …} or {"image": …}."""

    def __init__(self, max_item_bytes: int) -> None:
        self._max_item_bytes = max_item_bytes
        self._line = bytearray()
        self._count = 0

    def feed(self, data: bytes) -> Iterator[BulkItem]:
        *whole, rest = data.split(b"\n")
        for end in whole:
            yield from self._end_line(end)
        self._line += rest
        _check_size(len(self._line), self._count, self._max_item_bytes)

    def close(self) -> Iterator[BulkItem]:
        return self._end_line(b"")

    def _end_line(self, end: bytes) -> Iterator[BulkItem]:
        line, self._line = bytes(self._line) + end, bytearray()
        _check_size(len(line), self._count, self._max_item_bytes)
        if not line.strip():
            return
        place = f"#/{self._count}"
        try:
            item = Item.model_validate(parse_json(line), strict=True)
        except MalformedBody as error:
            raise MalformedBody(f"{place}: {error}") from None
        except ValidationError as error:
            raise InvalidBody(faults_of(error, place)) from None
        self._count += 1
        yield BulkItem(item.text, item.image)


class FormItems:
    """The parts `image` and `text` of a form."""

    def __init__(self, kind: str, max_item_bytes: int) -> None:
        self._count = 0
        self._form = FormSplitter(kind, check=lambda size: _check_size(size, self._count, max_item_bytes))

    def feed(self, data: bytes) -> Iterator[BulkItem]:
        for name, value in self._form.feed(data):
            if name == "image":
                item = BulkItem(image=value)
            elif name == "text" and isinstance(value, str) and value:
                item = BulkItem(text=value)
            else:
                detail = "a bulk form has the parts image and text; options are in the query"
                raise InvalidBody.at(f"#/{self._count}", "unknown_part", detail)
            self._count += 1
            yield item

    def close(self) -> Iterator[BulkItem]:
        self._form.close()
        return iter(())


def _check_size(size: int, index: int, most: int) -> None:
    if size > most:
        detail = f"#/{index} is longer than {most} bytes"
        raise BodyTooLarge(detail, [Fault(pointer=f"#/{index}", code="body_too_large", detail=detail)])
