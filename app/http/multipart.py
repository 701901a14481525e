"""multipart/form-data, parsed while it arrives: Starlette's parser would write files to disk."""

from collections.abc import Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.http.errors import Answer, HttpProblem

MAX_PART_HEAD = 16_384  # bytes

_SMALL_PIECE = 4096  # bytes; the next piece is appended to a smaller one, so that tiny pieces cost no memory


class MalformedBody(HttpProblem):
    """The body is not the JSON, form or archive that it should be."""

    answer = Answer(400, "malformed_body", "Malformed body")


class FormSplitter:
    """Yields the parts of a form in order, each when it is complete: names, and bytes of files or text.

    Args:
        content_type: the header, with its boundary.
        check: called with the size of a part in bytes as it grows; may raise.
    """

    def __init__(self, content_type: str, *, check: Callable[[int], None] = lambda size: None) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise MalformedBody("the form cannot be parsed: the content type names no boundary")
        self._check = check
        self._parts: list[tuple[str, str | bytes]] = []
        self._head: list[tuple[bytearray, bytearray]] = []  # of the part: names and values
        self._head_bytes = 0
        self._name, self._is_file = "", False
        self._pieces: list[bytes] = []  # of its data
        self._size = 0
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_begin": self._begin_header,
                    "on_header_field": self._take_name,
                    "on_header_value": self._take_value,
                    "on_headers_finished": self._end_head,
                    "on_part_data": self._take_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise MalformedBody("the form cannot be parsed: the boundary is too long") from error

    def feed(self, data: bytes) -> list[tuple[str, str | bytes]]:
        """The parts that end in this piece of the body. Raises MalformedBody, and what `check` raises."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise MalformedBody("the form cannot be parsed: its parts are malformed") from error
        parts, self._parts = self._parts, []
        return parts

    def close(self) -> None:
        """Raises MalformedBody: the form is incomplete."""
        if not self._ended:
            raise MalformedBody("the form cannot be parsed: its end is missing")

    def _begin(self) -> None:
        self._head, self._head_bytes = [], 0
        self._pieces, self._size = [], 0

    def _begin_header(self) -> None:
        self._head.append((bytearray(), bytearray()))

    def _take_name(self, data: bytes, start: int, end: int) -> None:
        self._take_head(self._head[-1][0], data[start:end])

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._take_head(self._head[-1][1], data[start:end])

    def _take_head(self, into: bytearray, data: bytes) -> None:
        self._head_bytes += len(data)
        if self._head_bytes > MAX_PART_HEAD:
            raise MalformedBody(
                f"the form cannot be parsed: the head of a part has more than {MAX_PART_HEAD} bytes"
            )
        into += data

    def _end_head(self) -> None:
        disposition = next(
            (bytes(value) for name, value in self._head if name.lower() == b"content-disposition"), b""
        )
        options = parse_options_header(disposition)[1]
        if b"name" not in options:
            raise MalformedBody("the form cannot be parsed: a part has no name")
        self._name, self._is_file = _text(options[b"name"]), b"filename" in options

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._pieces and len(self._pieces[-1]) < _SMALL_PIECE:
            self._pieces[-1] += data[start:end]
        else:
            self._pieces.append(data[start:end])
        self._size += end - start
        self._check(self._size)

    def _end_part(self) -> None:
        data = b"".join(self._pieces)
        self._parts.append((self._name, data if self._is_file else _text(data)))

    def _end(self) -> None:
        self._ended = True


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
