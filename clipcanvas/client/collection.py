"""A collection of pictures as an object: `client.collection("pets").search("a cat")`."""

import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from clipcanvas.client import collection_endpoints as calls
from clipcanvas.client.collection_results import CollectionImage, ImageDuplicates
from clipcanvas.client.endpoints import Call
from clipcanvas.client.errors import problem
from clipcanvas.client.job import AsyncClientJob, ClientJob

if TYPE_CHECKING:
    from clipcanvas.client.client import AsyncClient, Client

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    build: Callable[Concatenate[str, P], Call[T]],
) -> "Callable[Concatenate[Collection, P], T]":
    @wraps(build)
    def method(self: "Collection", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._client._send(build(self.name, *args, **kwargs))

    return method


def _awaited(
    build: Callable[Concatenate[str, P], Call[T]],
) -> "Callable[Concatenate[AsyncCollection, P], Coroutine[Any, Any, T]]":
    @wraps(build)
    async def method(self: "AsyncCollection", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._client._send(build(self.name, *args, **kwargs))

    return method


class Collection:
    """One collection of a service; `create` makes it. Errors are those of `Client`."""

    def __init__(self, client: "Client", name: str) -> None:
        self._client = client
        self.name = name

    create = _blocking(calls.create)
    info = _blocking(calls.info)
    delete = _blocking(calls.delete)
    add = _blocking(calls.add)
    images = _blocking(calls.images)
    image = _blocking(calls.image)
    describe = _blocking(calls.describe)
    remove = _blocking(calls.remove)
    thumbnail = _blocking(calls.thumbnail)
    search = _blocking(calls.search)
    search_all = _blocking(calls.search_all)
    classify = _blocking(calls.classify)
    duplicates = _blocking(calls.duplicates)
    reindex = _blocking(calls.reindex)

    @wraps(calls.index)
    def index(self, **asked: Any) -> ClientJob:
        return ClientJob.of(self._client, self._client._send(calls.index(self.name, **asked)))

    def every_image(self) -> Iterator[CollectionImage]:
        """All images in order of their ids, fetched page by page."""
        after: str | None = None
        while True:
            page = self.images(limit=1000, after=after)
            yield from page.data
            if not page.has_more:
                return
            after = page.last_id

    def every_duplicate(self, *, threshold: float = 0.95) -> Iterator[ImageDuplicates]:
        """All images with others that are nearly the same, fetched page by page."""
        after: str | None = None
        while True:
            page = self.duplicates(threshold=threshold, after=after)
            yield from page.data
            if not page.has_more:
                return
            after = page.last_id

    def export(self) -> Iterator[dict[str, Any]]:
        """What the collection is, then each of its images with its vector in base64."""
        http = self._client._http
        response = http.send(calls.export(self.name).request(http), stream=True)
        try:
            if not response.is_success:
                response.read()
                raise problem(response)
            for line in response.iter_lines():
                yield json.loads(line)
        finally:
            response.close()


class AsyncCollection:
    """`Collection` for asyncio: the same arguments and methods, awaited."""

    def __init__(self, client: "AsyncClient", name: str) -> None:
        self._client = client
        self.name = name

    create = _awaited(calls.create)
    info = _awaited(calls.info)
    delete = _awaited(calls.delete)
    add = _awaited(calls.add)
    images = _awaited(calls.images)
    image = _awaited(calls.image)
    describe = _awaited(calls.describe)
    remove = _awaited(calls.remove)
    thumbnail = _awaited(calls.thumbnail)
    search = _awaited(calls.search)
    search_all = _awaited(calls.search_all)
    classify = _awaited(calls.classify)
    duplicates = _awaited(calls.duplicates)
    reindex = _awaited(calls.reindex)

    @wraps(calls.index)
    async def index(self, **asked: Any) -> AsyncClientJob:
        return AsyncClientJob.of(self._client, await self._client._send(calls.index(self.name, **asked)))

    async def every_image(self) -> AsyncIterator[CollectionImage]:
        """As `Collection.every_image`."""
        after: str | None = None
        while True:
            page = await self.images(limit=1000, after=after)
            for image in page.data:
                yield image
            if not page.has_more:
                return
            after = page.last_id

    async def every_duplicate(self, *, threshold: float = 0.95) -> AsyncIterator[ImageDuplicates]:
        """As `Collection.every_duplicate`."""
        after: str | None = None
        while True:
            page = await self.duplicates(threshold=threshold, after=after)
            for found in page.data:
                yield found
            if not page.has_more:
                return
            after = page.last_id

    async def export(self) -> AsyncIterator[dict[str, Any]]:
        """As `Collection.export`."""
        http = self._client._http
        response = await http.send(calls.export(self.name).request(http), stream=True)
        try:
            if not response.is_success:
                await response.aread()
                raise problem(response)
            async for line in response.aiter_lines():
                yield json.loads(line)
        finally:
            await response.aclose()
