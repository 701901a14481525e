"""A receiver of webhooks on this machine."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from models.requests.request import GenerationRequest, Prompt

REQUEST = GenerationRequest(
    generator="gradient", prompts=(Prompt(text="a fox"),), width=16, height=16, steps=5, seed=1
)
ALL = ("job.started", "job.succeeded", "job.failed", "job.canceled", "job.expired")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass(frozen=True)
class Request:
    """What a receiver was sent."""

    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """An HTTP server that answers as a test wants: a status, or a function of the handler."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.at_once = self.most_at_once = 0
        self.answer: Callable[[BaseHTTPRequestHandler], None] = self.say(204)
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                with receiver._lock:
                    receiver.requests.append(Request(self.path, headers, body))
                    receiver.at_once += 1
                    receiver.most_at_once = max(receiver.most_at_once, receiver.at_once)
                try:
                    receiver.answer(self)
                except OSError:
                    pass  # the sender did not wait
                finally:
                    with receiver._lock:
                        receiver.at_once -= 1

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port: int = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hooks?token=1"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @staticmethod
    def say(*statuses: int, after_s: float = 0, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
        """Those statuses, one after the other, and the last of them for ever."""
        left = list(statuses)

        def answer(handler: BaseHTTPRequestHandler) -> None:
            time.sleep(after_s)
            handler.send_response(left.pop(0) if len(left) > 1 else left[0])
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("content-length", "0")
            handler.end_headers()

        return answer

    def wait_for(self, count: int, seconds: float = 10) -> list[Request]:
        wait_until(lambda: len(self.requests) >= count, seconds)
        return self.requests

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def wait_until(promise: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not promise():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)
