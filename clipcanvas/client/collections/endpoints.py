"""Each request about collections as a value: how it is sent, and how its answer is read."""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack
from urllib.parse import quote

from clipcanvas.client.collections import results
from clipcanvas.client.endpoints import ImageSource, encode_image, given, reader, text_or_image
from clipcanvas.client.results import Job
from clipcanvas.client.transport import Call

Query = Any
"""A `str` is a text; a path, bytes or a PIL image is an image; or a `QueryPart`, or a list of all these."""


def collections() -> Call[results.CollectionCards]:
    """The caller's collections."""
    return Call("GET", "/v1/collections", reader(results.CollectionCards))


def create(
    name: str,
    *,
    model: str | None = None,
    quantization: str | None = None,
    m: int | None = None,
    ef_construction: int | None = None,
    thumbnails: bool | None = None,
) -> Call[results.CollectionCard]:
    """Create the collection, unless it exists."""
    body = given(
        model=model, quantization=quantization, m=m, ef_construction=ef_construction, thumbnails=thumbnails
    )
    return Call("PUT", _path(name), reader(results.CollectionCard), json=body)


def info(name: str) -> Call[results.CollectionCard]:
    """What the collection is, and how many images it holds."""
    return Call("GET", _path(name), reader(results.CollectionCard))


def delete(name: str) -> Call[None]:
    """Forget the collection and all of its images."""
    return Call("DELETE", _path(name), lambda response: None)


def add(
    name: str, images: Sequence[results.NewImage | ImageSource], *, model: str | None = None
) -> Call[results.AddedImages]:
    """Add images, or replace those whose ids are there."""
    body = {"images": [_new_image(image) for image in images]} | given(model=model)
    return Call("POST", f"{_path(name)}/images", reader(results.AddedImages), json=body)


def images(name: str, *, limit: int = 100, after: str | None = None) -> Call[results.ImagePage]:
    """A page of images, in order of their ids; `after` is the last id of the page before."""
    query = {"limit": limit} | given(after=after)
    return Call("GET", f"{_path(name)}/images", reader(results.ImagePage), query=query)


def image(name: str, image_id: str, *, vector: bool = False) -> Call[results.CollectionImage]:
    """An image of the collection, with its vector if `vector` is true."""
    query = {"vector": "true"} if vector else {}
    return Call("GET", _image_path(name, image_id), reader(results.CollectionImage), query={**query})


def describe(name: str, image_id: str, metadata: Mapping[str, Any]) -> Call[results.CollectionImage]:
    """Replace an image's metadata; its vector stays."""
    body = {"metadata": dict(metadata)}
    return Call("PATCH", _image_path(name, image_id), reader(results.CollectionImage), json=body)


def remove(name: str, image_id: str) -> Call[None]:
    """Forget an image."""
    return Call("DELETE", _image_path(name, image_id), lambda response: None)


def thumbnail(name: str, image_id: str) -> Call[bytes]:
    """The JPEG of an image, if the collection keeps them."""
    path = f"{_path(name)}/thumbnails/{quote(image_id)}"
    return Call("GET", path, lambda response: response.content)


class SearchOptions(TypedDict, total=False):
    """How `Collection.search` searches; see there."""

    top_k: int
    filter: str | None
    min_similarity: float | None
    effort: int | None
    exact: bool
    model: str | None


def search(name: str, query: Query, **options: Unpack[SearchOptions]) -> Call[results.Hits]:
    """Find the images nearest to a query."""
    body = {"query": _query(query), **_search_options(options)}
    return Call("POST", f"{_path(name)}/search", reader(results.Hits), json=body)


def search_all(
    name: str, queries: Sequence[Query], **options: Unpack[SearchOptions]
) -> Call[results.HitsOfQueries]:
    """`search` for several queries in one request."""
    body = {"queries": [_query(query) for query in queries], **_search_options(options)}
    return Call("POST", f"{_path(name)}/search", reader(results.HitsOfQueries), json=body)


def classify(
    name: str,
    labels: Sequence[str],
    *,
    templates: Sequence[str] | None = None,
    top_k: int | None = None,
    min_probability: float | None = None,
) -> Call[results.LabelCounts]:
    """Count the images that each label fits best."""
    body = {"labels": list(labels)} | given(
        templates=templates and list(templates), top_k=top_k, min_probability=min_probability
    )
    return Call("POST", f"{_path(name)}/classify", reader(results.LabelCounts), json=body)


def duplicates(
    name: str, *, threshold: float = 0.95, limit: int = 1000, after: str | None = None
) -> Call[results.DuplicatesPage]:
    """Pairs of images with at least that similarity, looked for from `limit` images after `after`."""
    query: dict[str, Any] = {"threshold": threshold, "limit": limit} | given(after=after)
    return Call("GET", f"{_path(name)}/duplicates", reader(results.DuplicatesPage), query=query)


def reindex(
    name: str, source: str, *, after: str | None = None, limit: int | None = None
) -> Call[results.ReindexPage]:
    """Embed thumbnails of another collection with this one's model, `limit` of them after `after`."""
    body = {"source": source} | given(after=after, limit=limit)
    return Call("POST", f"{_path(name)}/reindex", reader(results.ReindexPage), json=body)


class IndexOptions(TypedDict, total=False):
    """What `Collection.index` takes; see there."""

    folder: str | None
    urls: Sequence[str | Mapping[str, Any]] | None
    archive: str | Path | None
    replace: bool
    priority: str | None
    webhook: Mapping[str, Any] | None
    metadata: Mapping[str, str] | None
    idempotency_key: str | None


def index(name: str, **options: Unpack[IndexOptions]) -> Call[Job]:
    """Submit an index job, in which the service adds many images by itself."""
    fields: dict[str, Any] = given(**options)
    archive, key = fields.pop("archive", None), fields.pop("idempotency_key", None)
    plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in fields.items()}
    body: dict[str, Any] = {"type": "index", "collection": name, **plain}
    if not body.get("replace"):
        body.pop("replace", None)
    if "urls" in body:
        body["urls"] = list(body["urls"])
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    if archive is None:
        return Call("POST", "/v1/jobs", reader(Job), json=body, headers=headers)
    file = Path(archive)
    headers |= {"Content-Type": "application/x-tar", "Content-Length": str(file.stat().st_size)}
    return Call("POST", "/v1/jobs", reader(Job), query=body, file=file, headers=headers)


def index_report(job_id: str) -> Call[results.IndexReport]:
    """The report of an index job."""
    return Call("GET", f"/v1/jobs/{quote(job_id)}/outputs/report.json", reader(results.IndexReport))


def export(name: str) -> Call[None]:
    """The collection as lines of JSON; the client streams them."""
    return Call("GET", f"{_path(name)}/export", lambda response: None)


def _path(name: str) -> str:
    return f"/v1/collections/{quote(name, safe='')}"


def _image_path(name: str, image_id: str) -> str:
    return f"{_path(name)}/images/{quote(image_id)}"


def _new_image(image: results.NewImage | ImageSource) -> dict[str, Any]:
    new = image if isinstance(image, results.NewImage) else results.NewImage(image)
    return given(
        image=None if new.image is None else encode_image(new.image),
        vector=_vector(new.vector),
        id=new.id,
        metadata=new.metadata or None,
        source_url=new.source_url,
    )


def _search_options(options: SearchOptions) -> dict[str, Any]:
    body: dict[str, Any] = {"top_k": 10, **given(**options)}
    if not body.get("exact"):
        body.pop("exact", None)
    return body


def _query(query: Query) -> Any:
    several = query if isinstance(query, list | tuple) else [query]
    return [_part(part) for part in several]


def _part(part: Any) -> dict[str, Any]:
    if not isinstance(part, results.QueryPart):
        return {**text_or_image(part)}
    return given(
        text=part.text,
        image=None if part.image is None else encode_image(part.image),
        id=part.id,
        vector=_vector(part.vector),
        weight=None if part.weight == 1.0 else part.weight,
    )


def _vector(vector: Any) -> Any:
    return vector if vector is None or isinstance(vector, str) else [float(number) for number in vector]
