"""The typed clients: `Client` blocks, `AsyncClient` is awaited; both have the methods of `calls`."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from clipcanvas import calls, collection_calls
from clipcanvas.calls import Call, problem
from clipcanvas.collection import AsyncCollection, Collection
from clipcanvas.errors import ApiError, ClipcanvasError, Unreachable
from clipcanvas.results import Event, Job
from clipcanvas.sse import EventFeed
from clipcanvas.waiting import Deadline, successful

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"
FIRST_PAUSE_S = 0.5  # before the first retry; each next one waits twice as long


def _blocking(build: Callable[P, Call[T]]) -> "Callable[Concatenate[Client, P], T]":
    @wraps(build)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._send(build(*args, **kwargs))

    return method


def _awaited(build: Callable[P, Call[T]]) -> "Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]":
    @wraps(build)
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._send(build(*args, **kwargs))

    return method


class Client:
    """Calls a Clipcanvas service. Close it, or use it in a `with`; one may serve many threads.

    Args:
        base_url: where the service is.
        api_key: sent as a bearer token, if the service asks for keys.
        retries: how often a call is sent again after no answer, a 429 or a 503.
        max_pause_s: longest pause before such a retry; a service that asks for more is not retried.

    Raises:
        ValueError: `base_url` is no http or https URL.

    Every method raises `ApiError` where the service refuses and `Unreachable` where it does not answer.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        retries: int = 4,
        max_pause_s: float = 20,
    ) -> None:
        self._http = httpx.Client(**_http_arguments(base_url, api_key))
        self._retries = retries
        self._max_pause_s = max_pause_s

    classify = _blocking(calls.classify)
    embed = _blocking(calls.embed)
    rank = _blocking(calls.rank)
    create_job = _blocking(calls.create_job)
    job = _blocking(calls.job)
    jobs = _blocking(calls.jobs)
    cancel = _blocking(calls.cancel)
    delete = _blocking(calls.delete)
    output = _blocking(calls.output)
    models = _blocking(calls.models)
    generators = _blocking(calls.generators)
    queue = _blocking(calls.queue)
    ready = _blocking(calls.ready)
    collections = _blocking(collection_calls.collections)

    def collection(self, name: str) -> Collection:
        """The collection of that name, which need not be there yet."""
        return Collection(self, name)

    def draw(self, prompt: Any, *, timeout_s: float | None = None, **request: Any) -> Job:
        """Create a job as `create_job` does, and wait for it as `wait` does."""
        return self.wait(self.create_job(prompt, **request).id, timeout_s=timeout_s)

    def wait(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """The job, once it has succeeded.

        Raises:
            JobFailed, JobCanceled, JobExpired: it ended otherwise.
            WaitTimeout: it was not final after `timeout_s` seconds.
        """
        deadline = Deadline(timeout_s)
        while True:
            job = self.job(job_id, wait_s=deadline.next_wait_s())
            if job.is_final:
                return successful(job)
            deadline.check(job)

    def save(self, job: Job, path: str | Path, *, image: int = 0) -> Path:
        """Write a picture of a job to a file, whole or not at all; `image` says which of several."""
        return write_whole(Path(path), self.output(job.id, job.pictures[image].name))

    def every_job(self, *, status: str | None = None) -> Iterator[Job]:
        """All jobs, newest first, fetched page by page."""
        after: str | None = None
        while True:
            page = self.jobs(status=status, limit=100, after=after)
            yield from page.data
            if not page.has_more:
                return
            after = page.last_id

    def events(self, job_id: str, *, after: str | None = None) -> Iterator[Event]:
        """What happens to a job, until it is final; goes on by itself where a connection drops.

        Args:
            after: id of the last event already seen; without, from the start.
        """
        call = calls.events(job_id)
        feed = EventFeed(str(self._http.base_url), after)
        while not feed.ended:
            request = call.request(self._http)
            request.headers.update(feed.headers())
            error: httpx.HTTPError | ApiError | None = None
            try:
                response = self._http.send(request, stream=True)
                try:
                    if not response.is_success:
                        response.read()
                        raise problem(response)
                    for chunk in response.iter_bytes():
                        yield from feed.read(chunk)
                finally:
                    response.close()
            except (httpx.HTTPError, ApiError) as caught:
                error = caught
            if not feed.ended:
                time.sleep(feed.pause_after(error))

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        attempts = _Attempts(str(self._http.base_url), self._retries, self._max_pause_s)
        while True:
            try:
                return call.result(self._http.send(call.request(self._http)))
            except (httpx.HTTPError, ApiError) as error:
                time.sleep(attempts.pause_after(error))


class AsyncClient:
    """`Client` for asyncio: the same arguments and methods, awaited."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        retries: int = 4,
        max_pause_s: float = 20,
    ) -> None:
        self._http = httpx.AsyncClient(**_http_arguments(base_url, api_key))
        self._retries = retries
        self._max_pause_s = max_pause_s

    classify = _awaited(calls.classify)
    embed = _awaited(calls.embed)
    rank = _awaited(calls.rank)
    create_job = _awaited(calls.create_job)
    job = _awaited(calls.job)
    jobs = _awaited(calls.jobs)
    cancel = _awaited(calls.cancel)
    delete = _awaited(calls.delete)
    output = _awaited(calls.output)
    models = _awaited(calls.models)
    generators = _awaited(calls.generators)
    queue = _awaited(calls.queue)
    ready = _awaited(calls.ready)
    collections = _awaited(collection_calls.collections)

    def collection(self, name: str) -> AsyncCollection:
        """As `Client.collection`."""
        return AsyncCollection(self, name)

    async def draw(self, prompt: Any, *, timeout_s: float | None = None, **request: Any) -> Job:
        """As `Client.draw`."""
        return await self.wait((await self.create_job(prompt, **request)).id, timeout_s=timeout_s)

    async def wait(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """As `Client.wait`."""
        deadline = Deadline(timeout_s)
        while True:
            job = await self.job(job_id, wait_s=deadline.next_wait_s())
            if job.is_final:
                return successful(job)
            deadline.check(job)

    async def save(self, job: Job, path: str | Path, *, image: int = 0) -> Path:
        """As `Client.save`."""
        content = await self.output(job.id, job.pictures[image].name)
        return await asyncio.to_thread(write_whole, Path(path), content)

    async def every_job(self, *, status: str | None = None) -> AsyncIterator[Job]:
        """As `Client.every_job`."""
        after: str | None = None
        while True:
            page = await self.jobs(status=status, limit=100, after=after)
            for job in page.data:
                yield job
            if not page.has_more:
                return
            after = page.last_id

    async def events(self, job_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """As `Client.events`."""
        call = calls.events(job_id)
        feed = EventFeed(str(self._http.base_url), after)
        while not feed.ended:
            request = call.request(self._http)
            request.headers.update(feed.headers())
            error: httpx.HTTPError | ApiError | None = None
            try:
                response = await self._http.send(request, stream=True)
                try:
                    if not response.is_success:
                        await response.aread()
                        raise problem(response)
                    async for chunk in response.aiter_bytes():
                        for event in feed.read(chunk):
                            yield event
                finally:
                    await response.aclose()
            except (httpx.HTTPError, ApiError) as caught:
                error = caught
            if not feed.ended:
                await asyncio.sleep(feed.pause_after(error))

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, call: Call[T]) -> T:
        attempts = _Attempts(str(self._http.base_url), self._retries, self._max_pause_s)
        while True:
            try:
                return call.result(await self._http.send(call.request(self._http)))
            except (httpx.HTTPError, ApiError) as error:
                await asyncio.sleep(attempts.pause_after(error))


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file so that whoever looks sees all of it, or what was there before."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    return part.replace(path)


class _Attempts:
    def __init__(self, url: str, retries: int, max_pause_s: float) -> None:
        self._url = url
        self._left = retries
        self._pause_s = FIRST_PAUSE_S
        self._max_pause_s = max_pause_s

    def pause_after(self, error: httpx.HTTPError | ApiError) -> float:
        told: ClipcanvasError = (
            error if isinstance(error, ApiError) else Unreachable(self._url, _reason(error))
        )
        asked = error.retry_after_s if isinstance(error, ApiError) else None
        hopeless = isinstance(error, ApiError) and not error.retryable
        if hopeless or self._left == 0 or (asked or 0) > self._max_pause_s:
            raise told from (error if told is not error else None)
        self._left -= 1
        pause_s = min(self._pause_s, self._max_pause_s) * random.uniform(0.8, 1.2)  # so that callers spread
        self._pause_s *= 2
        return max(pause_s, asked or 0)


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
