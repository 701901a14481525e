"""`Collection` for asyncio."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from clipcanvas.client.collections import endpoints, results
from clipcanvas.client.collections.endpoints import Query
from clipcanvas.client.endpoints import ImageSource
from clipcanvas.client.job import AsyncClientJob
from clipcanvas.client.transport import AsyncTransport, every_item_async


class AsyncCollection:
    """`Collection` for asyncio: the same arguments and methods, awaited."""

    def __init__(self, transport: AsyncTransport, name: str) -> None:
        self.transport = transport
        self.name = name

    async def create(
        self,
        *,
        model: str | None = None,
        quantization: str | None = None,
        m: int | None = None,
        ef_construction: int | None = None,
        thumbnails: bool | None = None,
    ) -> results.CollectionCard:
        """As `Collection.create`."""
        return await self.transport.send(
            endpoints.create(
                self.name,
                model=model,
                quantization=quantization,
                m=m,
                ef_construction=ef_construction,
                thumbnails=thumbnails,
            )
        )

    async def info(self) -> results.CollectionCard:
        """As `Collection.info`."""
        return await self.transport.send(endpoints.info(self.name))

    async def delete(self) -> None:
        """As `Collection.delete`."""
        await self.transport.send(endpoints.delete(self.name))

    async def add(
        self, images: Sequence[results.NewImage | ImageSource], *, model: str | None = None
    ) -> results.AddedImages:
        """As `Collection.add`."""
        return await self.transport.send(endpoints.add(self.name, images, model=model))

    async def images(self, *, limit: int = 100, after: str | None = None) -> results.ImagePage:
        """As `Collection.images`."""
        return await self.transport.send(endpoints.images(self.name, limit=limit, after=after))

    async def image(self, image_id: str, *, vector: bool = False) -> results.CollectionImage:
        """As `Collection.image`."""
        return await self.transport.send(endpoints.image(self.name, image_id, vector=vector))

    async def describe(self, image_id: str, metadata: Mapping[str, Any]) -> results.CollectionImage:
        """As `Collection.describe`."""
        return await self.transport.send(endpoints.describe(self.name, image_id, metadata))

    async def remove(self, image_id: str) -> None:
        """As `Collection.remove`."""
        await self.transport.send(endpoints.remove(self.name, image_id))

    async def thumbnail(self, image_id: str) -> bytes:
        """As `Collection.thumbnail`."""
        return await self.transport.send(endpoints.thumbnail(self.name, image_id))

    async def search(
        self,
        query: Query,
        *,
        top_k: int = 10,
        filter: str | None = None,
        min_similarity: float | None = None,
        effort: int | None = None,
        exact: bool = False,
        model: str | None = None,
    ) -> results.Hits:
        """As `Collection.search`."""
        return await self.transport.send(
            endpoints.search(
                self.name,
                query,
                top_k=top_k,
                filter=filter,
                min_similarity=min_similarity,
                effort=effort,
                exact=exact,
                model=model,
            )
        )

    async def search_all(
        self,
        queries: Sequence[Query],
        *,
        top_k: int = 10,
        filter: str | None = None,
        min_similarity: float | None = None,
        effort: int | None = None,
        exact: bool = False,
        model: str | None = None,
    ) -> results.HitsOfQueries:
        """As `Collection.search_all`."""
        return await self.transport.send(
            endpoints.search_all(
                self.name,
                queries,
                top_k=top_k,
                filter=filter,
                min_similarity=min_similarity,
                effort=effort,
                exact=exact,
                model=model,
            )
        )

    async def classify(
        self,
        labels: Sequence[str],
        *,
        templates: Sequence[str] | None = None,
        top_k: int | None = None,
        min_probability: float | None = None,
    ) -> results.LabelCounts:
        """As `Collection.classify`."""
        return await self.transport.send(
            endpoints.classify(
                self.name, labels, templates=templates, top_k=top_k, min_probability=min_probability
            )
        )

    async def duplicates(
        self, *, threshold: float = 0.95, limit: int = 1000, after: str | None = None
    ) -> results.DuplicatesPage:
        """As `Collection.duplicates`."""
        return await self.transport.send(
            endpoints.duplicates(self.name, threshold=threshold, limit=limit, after=after)
        )

    async def reindex(
        self, source: str, *, after: str | None = None, limit: int | None = None
    ) -> results.ReindexPage:
        """As `Collection.reindex`."""
        return await self.transport.send(endpoints.reindex(self.name, source, after=after, limit=limit))

    async def index(
        self,
        *,
        folder: str | None = None,
        urls: Sequence[str | Mapping[str, Any]] | None = None,
        archive: str | Path | None = None,
        replace: bool = False,
        priority: str | None = None,
        webhook: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncClientJob:
        """As `Collection.index`."""
        return AsyncClientJob.of(
            self.transport,
            await self.transport.send(
                endpoints.index(
                    self.name,
                    folder=folder,
                    urls=urls,
                    archive=archive,
                    replace=replace,
                    priority=priority,
                    webhook=webhook,
                    metadata=metadata,
                    idempotency_key=idempotency_key,
                )
            ),
        )

    def every_image(self) -> AsyncIterator[results.CollectionImage]:
        """As `Collection.every_image`."""
        return every_item_async(lambda after: self.images(limit=1000, after=after))

    def every_duplicate(self, *, threshold: float = 0.95) -> AsyncIterator[results.ImageDuplicates]:
        """As `Collection.every_duplicate`."""
        return every_item_async(lambda after: self.duplicates(threshold=threshold, after=after))

    async def export(self) -> AsyncIterator[dict[str, Any]]:
        """As `Collection.export`."""
        rest = b""
        async with aclosing(self.transport.stream(endpoints.export(self.name))) as chunks:
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)
