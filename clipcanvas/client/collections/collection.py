"""A collection of images as an object: `client.collection("pets").search("a cat")`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from clipcanvas.client.collections import endpoints, results
from clipcanvas.client.collections.endpoints import Query
from clipcanvas.client.endpoints import ImageSource
from clipcanvas.client.job import ClientJob
from clipcanvas.client.transport import Transport, every_item


class Collection:
    """One collection of a service; `create` makes it. Errors are those of `Client`."""

    def __init__(self, transport: Transport, name: str) -> None:
        self.transport = transport
        self.name = name

    def create(
        self,
        *,
        model: str | None = None,
        quantization: str | None = None,
        m: int | None = None,
        ef_construction: int | None = None,
        thumbnails: bool | None = None,
    ) -> results.CollectionCard:
        """Create the collection, unless it exists.

        Args:
            model: the CLIP that it is bound to; without, the service's first.
            quantization: q8, none or binary: how vectors are kept.
            m: links of a vector in the index.
            ef_construction: candidates looked at when a vector is linked.
            thumbnails: keep a thumbnail of each image, which `reindex` needs.
        """
        return self.transport.send(
            endpoints.create(
                self.name,
                model=model,
                quantization=quantization,
                m=m,
                ef_construction=ef_construction,
                thumbnails=thumbnails,
            )
        )

    def info(self) -> results.CollectionCard:
        """What the collection is, and how many images it holds."""
        return self.transport.send(endpoints.info(self.name))

    def delete(self) -> None:
        """Forget the collection and all of its images."""
        self.transport.send(endpoints.delete(self.name))

    def add(
        self, images: Sequence[results.NewImage | ImageSource], *, model: str | None = None
    ) -> results.AddedImages:
        """Add images, or replace those whose ids are there.

        Args:
            images: at most 64 images (the service's setting), or 1,000 vectors.
            model: if given, the service checks that the collection is bound to it.
        """
        return self.transport.send(endpoints.add(self.name, images, model=model))

    def images(self, *, limit: int = 100, after: str | None = None) -> results.ImagePage:
        """A page of images, in order of their ids; `after` is the last id of the page before."""
        return self.transport.send(endpoints.images(self.name, limit=limit, after=after))

    def image(self, image_id: str, *, vector: bool = False) -> results.CollectionImage:
        """An image of the collection, with its vector if `vector` is true."""
        return self.transport.send(endpoints.image(self.name, image_id, vector=vector))

    def describe(self, image_id: str, metadata: Mapping[str, Any]) -> results.CollectionImage:
        """Replace an image's metadata; its vector stays."""
        return self.transport.send(endpoints.describe(self.name, image_id, metadata))

    def remove(self, image_id: str) -> None:
        """Forget an image."""
        self.transport.send(endpoints.remove(self.name, image_id))

    def thumbnail(self, image_id: str) -> bytes:
        """The JPEG of an image, if the collection keeps them."""
        return self.transport.send(endpoints.thumbnail(self.name, image_id))

    def search(
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
        """Find the images nearest to a query.

        Args:
            query: a text, an image, a `QueryPart`, or a list of these, whose weighted sum is the query.
            filter: an expression over the metadata, such as `.year > 1980 and .kind == "cat"`.
            min_similarity: least cosine.
            effort: candidates that the index looks at.
            exact: look at every image.
        """
        return self.transport.send(
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

    def search_all(
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
        """`search` for several queries in one request."""
        return self.transport.send(
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

    def classify(
        self,
        labels: Sequence[str],
        *,
        templates: Sequence[str] | None = None,
        top_k: int | None = None,
        min_probability: float | None = None,
    ) -> results.LabelCounts:
        """Count the images that each label fits best.

        Args:
            templates: sentences with `{label}` in them; without, the model's own.
            top_k: examples of each label.
            min_probability: images whose best label is less likely get none.
        """
        return self.transport.send(
            endpoints.classify(
                self.name, labels, templates=templates, top_k=top_k, min_probability=min_probability
            )
        )

    def duplicates(
        self, *, threshold: float = 0.95, limit: int = 1000, after: str | None = None
    ) -> results.DuplicatesPage:
        """Pairs of images with at least that similarity, looked for from `limit` images after `after`."""
        return self.transport.send(
            endpoints.duplicates(self.name, threshold=threshold, limit=limit, after=after)
        )

    def reindex(
        self, source: str, *, after: str | None = None, limit: int | None = None
    ) -> results.ReindexPage:
        """Embed thumbnails of another collection with this one's model, `limit` of them after `after`."""
        return self.transport.send(endpoints.reindex(self.name, source, after=after, limit=limit))

    def index(
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
    ) -> ClientJob:
        """Submit an index job, in which the service adds many images by itself.

        Args:
            folder: one that the service may index: a name of its setting, and a path below it.
            urls: addresses, or mappings of `url`, `id` and `metadata`.
            archive: path of a tar here, which is sent; webhook and metadata cannot go with it.
            replace: add those that are there already, too.
            idempotency_key: as that of `create_job`.
        """
        return ClientJob.of(
            self.transport,
            self.transport.send(
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

    def every_image(self) -> Iterator[results.CollectionImage]:
        """All images in order of their ids, fetched page by page."""
        return every_item(lambda after: self.images(limit=1000, after=after))

    def every_duplicate(self, *, threshold: float = 0.95) -> Iterator[results.ImageDuplicates]:
        """All images with others that are nearly the same, fetched page by page."""
        return every_item(lambda after: self.duplicates(threshold=threshold, after=after))

    def export(self) -> Iterator[dict[str, Any]]:
        """What the collection is, then each of its images with its vector in base64."""
        rest = b""
        with closing(self.transport.stream(endpoints.export(self.name))) as chunks:
            for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (json.loads(line) for line in lines)
