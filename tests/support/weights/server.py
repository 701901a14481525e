"""A server of weights on a real port, a file server and a Hugging Face hub, which misbehaves if told to."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Served:
    """One file and how it is served.

    Attributes:
        breaks_after: bytes of an answer before the connection is cut, for each of the first answers.
        length_too_long: bytes that the Content-Length has too many.
        ranges: whether a part of it may be asked for.
        etag: whether it is told; else the date.
        statuses: answers before the first that is right.
    """

    content: bytes
    breaks_after: list[int] = field(default_factory=list)
    length_too_long: int = 0
    ranges: bool = True
    etag: bool = True
    statuses: list[int] = field(default_factory=list)
    redirects_to: str | None = None
    changes_to: bytes | None = None  # after the first answer

    @property
    def mark(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()}"'


class WeightsServer:
    """Serves `files` by path; `asked` has every request's method, path and Range, `tokens` what it was
    authorized by."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.tokens: list[str | None] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def put(self, path: str, content: bytes, **how: Any) -> Served:
        """Serve a file."""
        self.files[path] = Served(content, **how)
        return self.files[path]

    def put_on_hub(self, repository: str, file: str, content: bytes, **how: Any) -> Served:
        """Serve a file of a hub's repository."""
        for revision in ("main", COMMIT):
            served = self.put(f"/{repository}/resolve/{revision}/{file}", content, **how)
        self.files[f"/{repository}/resolve/main/{file}"] = served
        return served

    def bytes_sent_for(self, path: str) -> list[str | None]:
        """The Range of each GET of a path."""
        return [asked for method, asked_path, asked in self.asked if (method, asked_path) == ("GET", path)]

    def run(self) -> None:
        self._server.serve_forever(poll_interval=0.02)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def log_message(self, *_: Any) -> None:
                pass

            def _answer(self, *, body: bool) -> None:
                server.asked.append((self.command, self.path, self.headers.get("range")))
                server.tokens.append(self.headers.get("authorization"))
                served = server.files.get(self.path)
                if served is None:
                    return self._refuse(404)
                if served.statuses:
                    return self._refuse(served.statuses.pop(0))
                if served.redirects_to:
                    self.send_response(302)
                    self.send_header("Location", served.redirects_to)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return None
                return self._send(served, body=body)

            def _refuse(self, status: int) -> None:
                self.send_response(status)
                if "/resolve/" in self.path:
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _send(self, served: Served, *, body: bool) -> None:
                content, start = served.content, 0
                asked, unless = self.headers.get("range"), self.headers.get("if-range")
                if asked and served.ranges and unless in (None, served.mark, _DATE):
                    start = int(asked.removeprefix("bytes=").partition("-")[0])
                if start >= len(content) and start:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.send_header("Content-Length", str(len(content) - start + served.length_too_long))
                self.send_header("ETag", served.mark) if served.etag else None
                self.send_header("Last-Modified", _DATE)
                if "/resolve/" in self.path:
                    self.send_header("X-Repo-Commit", COMMIT)
                    self.send_header("X-Linked-Etag", served.mark)
                    self.send_header("X-Linked-Size", str(len(content)))
                self.end_headers()
                if not body:
                    return
                end = len(content)
                if served.breaks_after:
                    end = start + served.breaks_after.pop(0)
                self.wfile.write(content[start:end])
                if served.changes_to is not None:
                    served.content, served.changes_to = served.changes_to, None
                if end < len(content) or served.length_too_long:
                    self.close_connection = True

        return Handler


_DATE = "Tue, 01 Jun 2021 00:00:00 GMT"


@contextmanager
def weights_server() -> Iterator[WeightsServer]:
    """A server that runs inside of the block."""
    server = WeightsServer()
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
