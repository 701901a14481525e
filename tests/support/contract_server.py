"""A small HTTP server for tests of the client: real sockets, answers that the test scripts."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

JOB: dict[str, Any] = {
    "id": "job_1",
    "object": "job",
    "type": "draw",
    "status": "queued",
    "seq": 1,
    "generator": "gradient",
    "request": {
        "prompts": [{"text": "a fox", "weight": 1.0}],
        "width": 64,
        "height": 64,
        "steps": 4,
        "seed": 7,
    },
    "created_at": "2026-01-02T03:04:05Z",
    "started_at": None,
    "finished_at": None,
    "attempt": 1,
    "queue_position": 0,
    "progress": None,
    "outputs": [],
    "error": None,
    "metadata": {},
}
DONE = JOB | {
    "status": "succeeded",
    "seq": 5,
    "started_at": "2026-01-02T03:04:06Z",
    "finished_at": "2026-01-02T03:04:08Z",
    "progress": {"step": 4, "steps": 4, "fraction": 1.0, "loss": 0.5},
    "outputs": [
        {"name": "image-0.png", "url": "/v1/jobs/job_1/outputs/image-0.png", "content_type": "image/png"}
    ],
}


def problem(status: int, code: str, detail: str = "something is wrong", **more: Any) -> Response:
    """An answer as RFC 9457 has it."""
    headers = {"Retry-After": str(more.pop("retry_after"))} if "retry_after" in more else {}
    body = {"type": "about:blank", "title": code, "status": status, "code": code, "detail": detail}
    return JSONResponse(
        body | {"request_id": "req-1", "retryable": status in (429, 503)} | more,
        status,
        headers=headers,
        media_type="application/problem+json",
    )


@contextlib.contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """The URL of a server that answers with this app."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
