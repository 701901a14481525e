"""uvicorn with two changes: endless request heads are refused, and a signal is passed on at once."""

import asyncio
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.settings import ApiSettings

MAX_HEAD_BYTES = 65_536


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's faster parser, with a bound on heads and trailers, which it would keep at any length."""

    _unfinished = 0  # bytes since the end of the last head or piece of a body

    def data_received(self, data: bytes) -> None:
        """Called with the bytes that arrived."""
        self._unfinished += len(data)
        super().data_received(data)
        if self._unfinished > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The head of a request has at most {MAX_HEAD_BYTES} bytes.")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._unfinished = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._unfinished = 0
        super().on_message_complete()


class Server(uvicorn.Server):
    """Sets `stopping` on a signal at once: the lifespan ends only after open streams have ended."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called between two bytecodes of the main thread, which also runs the event loop."""
        self._stopping.set()
        super().handle_exit(sig, frame)


def configure(app: Any, settings: ApiSettings) -> uvicorn.Config:
    """How to serve an ASGI app."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="asyncio",  # uvloop saves nothing here: docs/decisions/0013
        http=BoundedHttp,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
        forwarded_allow_ips=settings.forwarded_allow_ips,
    )
