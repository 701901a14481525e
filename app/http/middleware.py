"""What every request gets: an id, a bounded body, a log line, metrics, and an answer to any exception."""

import asyncio
import random
import re
import time
from collections.abc import Mapping

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.body import BodyReader
from app.http.errors import BodyTimeout, BodyTooLarge, HttpProblem, Overloaded, UnsupportedBody, problem_of
from app.metrics import Metrics
from app.settings import ApiSettings

log = structlog.stdlib.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DRAIN_S = 5.0
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-site",
}


class RequestContext:
    """Gives each request an id and a log line, counts it, and answers exceptions that reach it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        # a copy: the server may share the lifespan's state among requests
        arrived = asyncio.get_running_loop().time()
        scope["state"] = {**scope.get("state", {}), "request_id": request_id, "arrived": arrived}
        began = time.perf_counter()
        answered: list[tuple[int, float]] = []

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                answered.append((message["status"], time.perf_counter() - began))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:
                if answered:  # the answer has begun: the broken stream tells the client
                    log.exception("response interrupted")
                    raise
                await problem_of(scope, error)(scope, receive, send_with_id)
            finally:
                self._record(scope, *(answered[0] if answered else (499, 0.0)), time.perf_counter() - began)

    def _record(self, scope: Scope, status: int, first_byte_s: float, seconds: float) -> None:
        # the pattern, such as /v1/jobs/{job_id}: any path as a label would make metrics grow without bound
        route = getattr(scope.get("route"), "path", scope["state"].get("route", "unmatched"))
        method = scope["method"] if scope["method"] in _METHODS else "other"
        code = scope["state"].get("problem_code")
        self._metrics.requests.labels(route, method, status).inc()
        self._metrics.request_seconds.labels(route, method).observe(first_byte_s)
        if code:
            self._metrics.problems.labels(code).inc()
        # probes and scrapes come all the time
        write = log.debug if route in _QUIET and status < 500 else log.info
        write(
            "request",
            method=method,
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            code=code,
            key=scope["state"].get("caller"),
        )


_QUIET = frozenset({"/livez", "/readyz", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class BodyLimit:
    """Refuses bodies that are too long, compressed, or do not arrive, before they are parsed.

    Args:
        readers: of the bodies, by the paths of their routes.
    """

    def __init__(self, app: ASGIApp, readers: Mapping[str, BodyReader], settings: ApiSettings) -> None:
        self._app = app
        self._readers = readers
        self._settings = settings
        self._held = 0  # bytes of bodies in memory; streamed bodies are not kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        settings = self._settings
        max_bytes, is_held = settings.max_body_bytes, True
        if reader := self._readers.get(scope["path"]):
            if reader.body.is_streamed(headers):
                max_bytes, is_held = reader.body.max_streamed_bytes(settings), False
            else:
                try:
                    reader.body.check(scope)
                except HttpProblem as refused:
                    scope["state"]["route"] = scope["path"]  # for the log and the metrics: no router sees it
                    return await problem_of(scope, refused)(scope, receive, send)
        declared = int(headers.get("content-length", "0"))
        encoding = headers.get("content-encoding", "identity").lower()
        refusal: HttpProblem | None = None
        if encoding != "identity":
            refusal = UnsupportedBody(f"the body is encoded with {encoding}; send it without an encoding")
        elif declared > max_bytes:
            refusal = _too_large(max_bytes)
        elif is_held and self._held + declared > settings.max_held_bytes:
            refusal = self._too_many()
        if refusal is not None:
            # a client that is still sending would not read the answer
            if "expect" not in headers:
                await _drain(receive, max_bytes)
            return await problem_of(scope, refusal)(scope, receive, send)

        seen, complete = 0, False  # of the body

        async def receive_bounded() -> Message:
            nonlocal seen, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout(settings.body_idle_s):
                    message = await receive()
            except TimeoutError:
                raise BodyTimeout(
                    f"no more of the body arrived for {settings.body_idle_s:g} seconds"
                ) from None
            size = len(message.get("body", b""))
            seen += size
            self._held += size if is_held else 0
            complete = not message.get("more_body", False)
            if seen > max_bytes or (is_held and self._held > settings.max_held_bytes):
                if not complete:
                    await _drain(receive, max_bytes)
                raise _too_large(max_bytes) if seen > max_bytes else self._too_many()
            return message

        try:
            await self._app(scope, receive_bounded, send)
        finally:
            self._held -= seen if is_held else 0

    def _too_many(self) -> Overloaded:
        return Overloaded(f"bodies of {self._settings.max_held_bytes} bytes are in work already")


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is longer than {max_bytes} bytes")


async def _drain(receive: Receive, max_bytes: int) -> None:
    left = 4 * max_bytes
    try:
        async with asyncio.timeout(_DRAIN_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
