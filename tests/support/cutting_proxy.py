"""A TCP proxy in front of a Redis socket, by which a test loses replies and cuts the network."""

import contextlib
import socket
import threading
from pathlib import Path

CHUNK = 65536


class CuttingProxy:
    """Passes bytes between loopback TCP and a Unix socket, for as long as the test wants that."""

    def __init__(self, upstream: Path) -> None:
        self.replies_lost = 0
        self._upstream = upstream
        self._fatal: bytes | None = None
        self._passing = threading.Event()
        self._passing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_reply_to(self, function: str) -> None:
        """The next call of this command, or of the record's function, is done, and nobody hears of it."""
        self._fatal = f"\r\n{function}\r\n".encode()

    def part(self) -> None:
        """Nothing passes any more, and nobody is told; what is sent now arrives late."""
        self._passing.clear()

    def join(self) -> None:
        """Everything passes again, first what was held back."""
        self._passing.set()

    def close(self) -> None:
        """Let go of everything."""
        self._passing.set()
        for each in (self._listener, *self._sockets):
            _close(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._upstream))
                self._sockets += [client, server]
                doomed = threading.Event()
                for source, target, is_request in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=self._pass_on, args=(source, target, is_request, doomed), daemon=True
                    ).start()

    def _pass_on(
        self, source: socket.socket, target: socket.socket, is_request: bool, doomed: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self._passing.wait()
                if is_request and self._fatal is not None and self._fatal in data:
                    self._fatal = None
                    doomed.set()
                elif not is_request and doomed.is_set():
                    self.replies_lost += 1
                    break
                target.sendall(data)
        _close(source)
        _close(target)


def _close(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)  # wakes whoever reads from it
    each.close()
