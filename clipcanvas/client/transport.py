"""How requests reach the service: a request as a value, retries, and one driver each for both clients.

What a client does is a flow: a generator that yields requests and pauses and is sent the responses.
`Transport` runs a flow and blocks, `AsyncTransport` awaits; the flows know neither.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import httpx

from clipcanvas.client.errors import ApiError, ClipcanvasError, Unreachable, foreign, problem

T = TypeVar("T")
ItemOf = TypeVar("ItemOf", covariant=True)

DEFAULT_URL = "http://127.0.0.1:8000"
FIRST_PAUSE_S = 0.5  # before the first retry; each next one waits twice as long
READ_TIMEOUT_S = 120.0  # a first request may wait for a model to load
UPLOAD_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and the reader of its response. Sending it twice does no more than sending it once."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    query: dict[str, str | int] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None  # is the body, in place of `json`
    file: Path | None = None  # is the body, as it is
    headers: dict[str, str] = field(default_factory=dict)
    read_timeout_s: float = READ_TIMEOUT_S
    also_answers: frozenset[int] = frozenset()  # statuses beside 2xx that are answers, not problems

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request that this client would send."""
        return http.build_request(
            self.method,
            self.path,
            params=self.query or None,
            json=self.json,
            content=_chunks(self.file, http) if self.file else self.content,
            headers=self.headers,
            timeout=httpx.Timeout(self.read_timeout_s, connect=10),
        )

    def result(self, response: httpx.Response) -> T:
        """What the response says.

        Raises:
            ApiError: it is a problem, or no response of a Clipcanvas service.
        """
        if not response.is_success and response.status_code not in self.also_answers:
            raise problem(response)
        try:
            return self.read(response)
        except ValueError as error:  # pydantic's and json's errors are ValueErrors
            raise foreign(response) from error


Flow = Generator[Call[Any] | float, httpx.Response, T]
"""Yields a request, or seconds to pause; is sent the response of a request; returns the result."""


@dataclass
class Retries:
    """How often a request is sent again, and after which pauses.

    Args:
        url: where the service is, for the error.
        left: retries after the first attempt.
        max_pause_s: longest pause; if the service asks for a longer one, the request is not sent again.
    """

    url: str
    left: int = 4
    max_pause_s: float = 20

    def __post_init__(self) -> None:
        self._pause_s = FIRST_PAUSE_S

    def pause_after(self, error: httpx.HTTPError | ApiError) -> float:
        """Seconds to wait before the next attempt, at least what `Retry-After` says.

        Raises:
            ClipcanvasError: the error, if there is to be no other attempt.
        """
        final: ClipcanvasError
        final = error if isinstance(error, ApiError) else Unreachable(self.url, _reason(error))
        retry_after_s = (error.retry_after_s or 0) if isinstance(error, ApiError) else 0
        hopeless = isinstance(error, ApiError) and not error.retryable
        if hopeless or self.left == 0 or retry_after_s > self.max_pause_s:
            raise final from (error if final is not error else None)
        self.left -= 1
        pause_s = min(self._pause_s, self.max_pause_s) * random.uniform(0.8, 1.2)  # so that callers spread
        self._pause_s *= 2
        return max(pause_s, retry_after_s)


class Sending(Protocol):
    """Makes the flow of one request, with its retries."""

    def __call__(self, call: Call[T], /) -> Flow[T]: ...


class Page(Protocol[ItemOf]):
    """A page of a list, with the id to go on after."""

    @property
    def data(self) -> Sequence[ItemOf]: ...
    @property
    def has_more(self) -> bool: ...
    @property
    def last_id(self) -> str | None: ...


class Transport:
    """Runs flows and blocks. One may serve many threads.

    Args:
        retries: makes the retries of one request.
    """

    def __init__(self, base_url: str, api_key: str | None, *, retries: int, max_pause_s: float) -> None:
        self.http = httpx.Client(**_http_arguments(base_url, api_key))
        self.url = str(self.http.base_url)
        self._retries, self._max_pause_s = retries, max_pause_s

    def sending(self, call: Call[T], /) -> Flow[T]:
        """The flow of one request, which is sent again where that helps."""
        return _sending(call, Retries(self.url, self._retries, self._max_pause_s))

    def send(self, call: Call[T]) -> T:
        """The result of one request, sent again where that helps."""
        return self.run(self.sending(call))

    def run(self, flow: Flow[T]) -> T:
        """What the flow returns."""
        try:
            step = next(flow)
            while True:
                if isinstance(step, float):
                    time.sleep(step)
                    step = next(flow)
                    continue
                try:
                    response = self.http.send(step.request(self.http))
                except httpx.HTTPError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    def stream(self, call: Call[None], headers: dict[str, str] | None = None) -> Generator[bytes, None, None]:
        """The body of a response as it comes; raises ApiError and httpx's errors."""
        request = call.request(self.http)
        request.headers.update(headers or {})
        response = self.http.send(request, stream=True)
        try:
            if not response.is_success:
                response.read()
                raise problem(response)
            yield from response.iter_bytes()
        finally:
            response.close()


class AsyncTransport:
    """`Transport` for asyncio: the same methods, awaited."""

    def __init__(self, base_url: str, api_key: str | None, *, retries: int, max_pause_s: float) -> None:
        self.http = httpx.AsyncClient(**_http_arguments(base_url, api_key))
        self.url = str(self.http.base_url)
        self._retries, self._max_pause_s = retries, max_pause_s

    def sending(self, call: Call[T], /) -> Flow[T]:
        """As `Transport.sending`."""
        return _sending(call, Retries(self.url, self._retries, self._max_pause_s))

    async def send(self, call: Call[T]) -> T:
        """As `Transport.send`."""
        return await self.run(self.sending(call))

    async def run(self, flow: Flow[T]) -> T:
        """As `Transport.run`."""
        try:
            step = next(flow)
            while True:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                    step = next(flow)
                    continue
                try:
                    response = await self.http.send(step.request(self.http))
                except httpx.HTTPError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    async def stream(
        self, call: Call[None], headers: dict[str, str] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """As `Transport.stream`."""
        request = call.request(self.http)
        request.headers.update(headers or {})
        response = await self.http.send(request, stream=True)
        try:
            if not response.is_success:
                await response.aread()
                raise problem(response)
            async for chunk in response.aiter_bytes():
                yield chunk
        finally:
            await response.aclose()


def every_item(fetch: Callable[[str | None], Page[T]]) -> Iterator[T]:
    """The items of all pages; `fetch` brings the page after an id."""
    after: str | None = None
    while True:
        page = fetch(after)
        yield from page.data
        if not page.has_more:
            return
        after = page.last_id


async def every_item_async(fetch: Callable[[str | None], Awaitable[Page[T]]]) -> AsyncIterator[T]:
    """As `every_item`."""
    after: str | None = None
    while True:
        page = await fetch(after)
        for item in page.data:
            yield item
        if not page.has_more:
            return
        after = page.last_id


def _sending(call: Call[T], retries: Retries) -> Flow[T]:
    while True:
        try:
            response = yield call
            return call.result(response)
        except (httpx.HTTPError, ApiError) as error:
            pause_s = retries.pause_after(error)
        yield pause_s


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "it took too long"
    return str(error) or type(error).__name__


def _http_arguments(base_url: str, api_key: str | None) -> dict[str, Any]:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"expected a URL such as {DEFAULT_URL}, not {base_url!r}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"expected a URL such as {DEFAULT_URL}, not {base_url!r}")
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        # a proxy from the environment cannot reach this machine's own loopback
        "trust_env": url.host not in ("127.0.0.1", "localhost", "::1"),
    }


def _chunks(path: Path, http: httpx.Client | httpx.AsyncClient) -> Iterator[bytes] | AsyncIterator[bytes]:
    return _chunks_async(path) if isinstance(http, httpx.AsyncClient) else _chunks_sync(path)


def _chunks_sync(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(UPLOAD_CHUNK_BYTES):
            yield chunk


async def _chunks_async(path: Path) -> AsyncIterator[bytes]:
    chunks = _chunks_sync(path)
    while chunk := await asyncio.to_thread(next, chunks, b""):
        yield chunk
