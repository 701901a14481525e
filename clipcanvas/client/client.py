"""The typed clients: `Client` blocks, `AsyncClient` is awaited; both have the methods of `calls`."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from clipcanvas.client import batches, collection_endpoints, endpoints
from clipcanvas.client.batches import Batch, Many
from clipcanvas.client.collection import AsyncCollection, Collection
from clipcanvas.client.endpoints import Call
from clipcanvas.client.errors import ApiError, problem
from clipcanvas.client.event_stream import EventFeed
from clipcanvas.client.job import AsyncClientJob, ClientJob
from clipcanvas.client.results import Event, Job
from clipcanvas.client.retries import Attempts
from clipcanvas.client.waiting import Deadline, successful

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
C = TypeVar("C")

DEFAULT_URL = "http://127.0.0.1:8000"


def _method(build: Callable[P, R], do: Callable[[C, R], T]) -> Callable[Concatenate[C, P], T]:
    """A method with the arguments of `build`; what that makes is given to `do`."""

    @wraps(build)
    def method(self: C, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return do(self, build(*args, **kwargs))

    return method


def _send(client: "Client", call: Call[T]) -> T:
    return client._send(call)


def _job(client: "Client", call: Call[Job]) -> ClientJob:
    return ClientJob.of(client, client._send(call))


def _many(client: "Client", batch: Batch[T]) -> Many[T]:
    return client._send_all(batch)


async def _send_async(client: "AsyncClient", call: Call[T]) -> T:
    return await client._send(call)


async def _job_async(client: "AsyncClient", call: Call[Job]) -> AsyncClientJob:
    return AsyncClientJob.of(client, await client._send(call))


async def _many_async(client: "AsyncClient", batch: Batch[T]) -> Many[T]:
    return await client._send_all(batch)


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

    classify = _method(endpoints.classify, _send)
    embed = _method(endpoints.embed, _send)
    rank = _method(endpoints.rank, _send)
    classify_many = _method(batches.classification, _many)
    embed_many = _method(batches.embedding, _many)
    create_job = _method(endpoints.create_job, _job)
    job = _method(endpoints.job, _job)
    jobs = _method(endpoints.jobs, _send)
    cancel = _method(endpoints.cancel, _job)
    delete = _method(endpoints.delete, _send)
    output = _method(endpoints.output, _send)
    models = _method(endpoints.models, _send)
    generators = _method(endpoints.generators, _send)
    queue = _method(endpoints.queue, _send)
    ready = _method(endpoints.ready, _send)
    collections = _method(collection_endpoints.collections, _send)
    index_report = _method(collection_endpoints.index_report, _send)

    def collection(self, name: str) -> Collection:
        """The collection of that name, which need not be there yet."""
        return Collection(self, name)

    def draw(self, prompt: Any, *, timeout_s: float | None = None, **request: Any) -> ClientJob:
        """Create a job as `create_job` does, and wait for it as `wait` does."""
        return self.create_job(prompt, **request).wait(timeout_s=timeout_s)

    def wait(self, job_id: str, *, timeout_s: float | None = None) -> ClientJob:
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
        return write_whole(Path(path), self.output(job.id, job.picture(image).name))

    def every_job(self, *, status: str | None = None) -> Iterator[ClientJob]:
        """All jobs, newest first, fetched page by page."""
        after: str | None = None
        while True:
            page = self.jobs(status=status, limit=100, after=after)
            yield from (ClientJob.of(self, job) for job in page.data)
            if not page.has_more:
                return
            after = page.last_id

    def events(self, job_id: str, *, after: str | None = None) -> Iterator[Event]:
        """What happens to a job, until it is final; goes on by itself where a connection drops.

        Args:
            after: id of the last event already seen; without, from the start.
        """
        call = endpoints.events(job_id)
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
        attempts = Attempts(str(self._http.base_url), self._retries, self._max_pause_s)
        while True:
            try:
                return call.result(self._http.send(call.request(self._http)))
            except (httpx.HTTPError, ApiError) as error:
                time.sleep(attempts.pause_after(error))

    def _send_all(self, batch: Batch[T]) -> Many[T]:
        for call in batch.calls():
            try:
                batch.take(self._send(call))
            except ApiError as error:
                batch.refuse(error)
        return batch.outcome


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

    classify = _method(endpoints.classify, _send_async)
    embed = _method(endpoints.embed, _send_async)
    rank = _method(endpoints.rank, _send_async)
    classify_many = _method(batches.classification, _many_async)
    embed_many = _method(batches.embedding, _many_async)
    create_job = _method(endpoints.create_job, _job_async)
    job = _method(endpoints.job, _job_async)
    jobs = _method(endpoints.jobs, _send_async)
    cancel = _method(endpoints.cancel, _job_async)
    delete = _method(endpoints.delete, _send_async)
    output = _method(endpoints.output, _send_async)
    models = _method(endpoints.models, _send_async)
    generators = _method(endpoints.generators, _send_async)
    queue = _method(endpoints.queue, _send_async)
    ready = _method(endpoints.ready, _send_async)
    collections = _method(collection_endpoints.collections, _send_async)
    index_report = _method(collection_endpoints.index_report, _send_async)

    def collection(self, name: str) -> AsyncCollection:
        """As `Client.collection`."""
        return AsyncCollection(self, name)

    async def draw(self, prompt: Any, *, timeout_s: float | None = None, **request: Any) -> AsyncClientJob:
        """As `Client.draw`."""
        return await (await self.create_job(prompt, **request)).wait(timeout_s=timeout_s)

    async def wait(self, job_id: str, *, timeout_s: float | None = None) -> AsyncClientJob:
        """As `Client.wait`."""
        deadline = Deadline(timeout_s)
        while True:
            job = await self.job(job_id, wait_s=deadline.next_wait_s())
            if job.is_final:
                return successful(job)
            deadline.check(job)

    async def save(self, job: Job, path: str | Path, *, image: int = 0) -> Path:
        """As `Client.save`."""
        content = await self.output(job.id, job.picture(image).name)
        return await asyncio.to_thread(write_whole, Path(path), content)

    async def every_job(self, *, status: str | None = None) -> AsyncIterator[AsyncClientJob]:
        """As `Client.every_job`."""
        after: str | None = None
        while True:
            page = await self.jobs(status=status, limit=100, after=after)
            for job in page.data:
                yield AsyncClientJob.of(self, job)
            if not page.has_more:
                return
            after = page.last_id

    async def events(self, job_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """As `Client.events`."""
        call = endpoints.events(job_id)
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
        attempts = Attempts(str(self._http.base_url), self._retries, self._max_pause_s)
        while True:
            try:
                return call.result(await self._http.send(call.request(self._http)))
            except (httpx.HTTPError, ApiError) as error:
                await asyncio.sleep(attempts.pause_after(error))

    async def _send_all(self, batch: Batch[T]) -> Many[T]:
        for call in batch.calls():
            try:
                batch.take(await self._send(call))
            except ApiError as error:
                batch.refuse(error)
        return batch.outcome


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file so that whoever looks sees all of it, or what was there before."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    return part.replace(path)


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
