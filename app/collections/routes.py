"""Collections over HTTP: made, filled, searched, classified, moved and deleted here."""

import asyncio
import json
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from app.clip.batched_clip import Timings
from app.clip.registry import ClipsInUse
from app.collections.requests import (
    AddRequest,
    ClassifyCollectionRequest,
    CollectionRequest,
    DescribeRequest,
    ReindexRequest,
    SearchRequest,
)
from app.collections.responses import (
    AddAnswer,
    ClassifyCollectionAnswer,
    CollectionAnswer,
    CollectionList,
    DuplicatesAnswer,
    ImageAnswer,
    ImageList,
    ImageWithVector,
    QueryHits,
    ReindexAnswer,
    SearchAnswer,
)
from app.collections.search import classify, duplicates, search
from app.collections.service import (
    ImageMissing,
    ThumbnailMissing,
    add,
    add_form,
    check_image_id,
    create,
    find,
    view,
    view_image,
)
from app.collections.transfer import export, reindex
from app.dependencies import CollectionsCaller, InUse
from app.http.body import JsonBody, JsonOrForm, check_limit
from app.http.concurrency import run_for_client
from app.http.file_response import file_response
from app.http.route_docs import FILES, TEXTS, responses
from storage.blobs import KeyMissing
from storage.collections.collection import Image
from storage.collections.thumbnails import thumbnail_key

router = APIRouter(prefix="/v1/collections", tags=["collections"])

ASKED = responses(401, 403, 404, 501, 503)
READ = responses(400, 401, 403, 404, 408, 409, 413, 415, 422, 501, 503, 504)
WRITTEN = responses(400, 401, 403, 404, 408, 409, 413, 415, 422, 501, 503, 504, 507)

_ADD_PARTS = {"image": FILES, **dict.fromkeys(("id", "metadata", "source_url"), TEXTS)}
After = Annotated[str | None, Query(max_length=256, description="the last_id of the page before")]


@router.get("", responses=responses(401, 403, 501, 503))
async def list_collections(caller: CollectionsCaller, resources: InUse) -> CollectionList:
    """The caller's collections, by name."""
    found = await resources.ask_vectors(resources.vectors.find, caller.name)
    return CollectionList(data=[view(collection) for collection in found])


@router.put(
    "/{name}",
    responses={
        200: {"model": CollectionAnswer, "description": "it was there, and is as the request says"},
        201: {"model": CollectionAnswer, "description": "it is new"},
        **WRITTEN,
    },
)
async def create_collection(
    name: str,
    caller: CollectionsCaller,
    body: Annotated[CollectionRequest, JsonBody(optional=True)],
    resources: InUse,
    clips: ClipsInUse,
) -> Response:
    """Make a collection, bound to a model. To ask again does no harm."""
    collection, is_new = await create(name, body, caller, resources, clips)
    return _said(view(collection), 201 if is_new else 200)


@router.get("/{name}", responses=ASKED)
async def show_collection(name: str, caller: CollectionsCaller, resources: InUse) -> CollectionAnswer:
    """What a collection is, and how many images it holds."""
    return view(await find(name, caller, resources))


@router.delete("/{name}", status_code=204, responses=ASKED)
async def delete_collection(name: str, caller: CollectionsCaller, resources: InUse) -> None:
    """Forget a collection and all of its images."""
    collection = await find(name, caller, resources)
    await resources.ask_vectors(resources.vectors.delete, collection)
    await asyncio.to_thread(resources.store.delete, collection.folder)


@router.post(
    "/{name}/images",
    responses={200: {"model": AddAnswer}, **WRITTEN},
)
async def add_images(
    request: Request,
    name: str,
    caller: CollectionsCaller,
    body: Annotated[
        AddRequest, JsonOrForm(aliases={"image": "images"}, from_form=add_form, shown=_ADD_PARTS)
    ],
    resources: InUse,
    clips: ClipsInUse,
) -> Response:
    """Embed pictures and keep their vectors. The same id replaces; without one the file's hash is its id."""
    collection = await find(name, caller, resources, body.model)
    timings = Timings()
    added = await run_for_client(
        request, resources.settings, lambda: add(collection, body, resources, clips, timings)
    )
    return _said(AddAnswer(model=collection.model, data=added), timings=timings)


@router.get("/{name}/images", responses={**ASKED, **responses(422)})
async def list_images(
    name: str,
    caller: CollectionsCaller,
    resources: InUse,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: After = None,
) -> ImageList:
    """The images of a collection, in order of their ids."""
    collection = await find(name, caller, resources)
    ids = await resources.ask_vectors(resources.vectors.ids, collection, limit + 1, _printable(after))
    page = ids[:limit]
    images = await resources.ask_vectors(resources.vectors.images, collection, page)
    data = [view_image(collection, image) for image in images if image is not None]
    return ImageList(data=data, has_more=len(ids) > limit, last_id=page[-1] if page else None)


@router.get("/{name}/images/{image_id:path}", responses=ASKED)
async def show_image(
    name: str,
    image_id: str,
    caller: CollectionsCaller,
    resources: InUse,
    vector: Annotated[bool, Query(description="tell its vector, too")] = False,
) -> ImageWithVector:
    """What is kept of an image."""
    collection = await find(name, caller, resources)
    ids = [check_image_id(image_id)]
    [image] = await resources.ask_vectors(resources.vectors.images, collection, ids)
    [row] = await resources.ask_vectors(resources.vectors.vectors, collection, ids) if vector else [None]
    if image is None or (vector and row is None):
        raise ImageMissing("the collection has no image of that id")
    numbers = None if row is None else [round(float(number), 8) for number in row]
    return ImageWithVector(**view_image(collection, image).model_dump(), vector=numbers)


@router.patch(
    "/{name}/images/{image_id:path}",
    responses={200: {"model": ImageAnswer}, **WRITTEN},
)
async def describe_image(
    name: str,
    image_id: str,
    caller: CollectionsCaller,
    body: Annotated[DescribeRequest, JsonBody()],
    resources: InUse,
) -> Response:
    """Replace an image's metadata or source_url; its vector stays."""
    collection = await find(name, caller, resources)
    [image] = await resources.ask_vectors(resources.vectors.images, collection, [check_image_id(image_id)])
    if image is None:
        raise ImageMissing("the collection has no image of that id")
    said = body.model_fields_set
    metadata = (body.metadata or {}) if "metadata" in said else image.metadata
    size = len(json.dumps(metadata, ensure_ascii=False).encode())
    check_limit("#/metadata", size, resources.settings.max_metadata_bytes, "bytes of metadata")
    url = body.source_url if "source_url" in said else image.source_url
    described = Image(image.id, metadata, url, image.thumbnail)
    if not await resources.ask_vectors(resources.vectors.describe, collection, described):
        raise ImageMissing("the collection has no image of that id")
    return _said(view_image(collection, described))


@router.delete("/{name}/images/{image_id:path}", status_code=204, responses=ASKED)
async def delete_image(name: str, image_id: str, caller: CollectionsCaller, resources: InUse) -> None:
    """Forget an image."""
    collection = await find(name, caller, resources)
    if not await resources.ask_vectors(resources.vectors.remove, collection, check_image_id(image_id)):
        raise ImageMissing("the collection has no image of that id")
    if collection.thumbnails:
        await asyncio.to_thread(resources.store.delete, thumbnail_key(collection, image_id))


@router.get(
    "/{name}/thumbnails/{image_id:path}",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}, "description": "the small picture"},
        304: {"description": "not changed"},
        **ASKED,
    },
)
async def fetch_thumbnail(
    name: str,
    image_id: str,
    caller: CollectionsCaller,
    resources: InUse,
    if_none_match: Annotated[str | None, Header(description="ETags; 304 if one is still right")] = None,
) -> Response:
    """The small picture of an image, if the collection keeps them."""
    collection = await find(name, caller, resources)
    key = thumbnail_key(collection, check_image_id(image_id))
    try:
        data = await asyncio.to_thread(resources.store.read, key)
    except KeyMissing:
        raise ThumbnailMissing("no thumbnail of that image is kept") from None
    return file_response(
        data,
        name="thumbnail.jpg",
        content_type="image/jpeg",
        if_none_match=if_none_match,
    )


@router.post(
    "/{name}/search",
    responses={200: {"model": SearchAnswer}, **READ},
)
async def search_images(
    request: Request,
    name: str,
    caller: CollectionsCaller,
    body: Annotated[SearchRequest, JsonOrForm(items="query", shown={"queries": None, "exact": None})],
    resources: InUse,
    clips: ClipsInUse,
) -> Response:
    """Find images by texts, pictures, other images of the collection or vectors, and by their metadata."""
    collection = await find(name, caller, resources, body.model)
    timings = Timings()
    found = await run_for_client(
        request, resources.settings, lambda: search(collection, body, resources, clips, timings)
    )
    if body.query is not None:
        return _said(SearchAnswer(model=collection.model, data=found[0]), timings=timings)
    data = [QueryHits(index=index, data=hits) for index, hits in enumerate(found)]
    return _said(SearchAnswer(model=collection.model, data=data), timings=timings)


@router.post(
    "/{name}/classify",
    responses={200: {"model": ClassifyCollectionAnswer}, **READ},
)
async def classify_images(
    request: Request,
    name: str,
    caller: CollectionsCaller,
    body: Annotated[ClassifyCollectionRequest, JsonBody()],
    resources: InUse,
    clips: ClipsInUse,
) -> Response:
    """Say which of some labels fits each image best: counts, and the best examples of each."""
    collection = await find(name, caller, resources)
    timings = Timings()
    said = await run_for_client(
        request, resources.settings, lambda: classify(collection, body, resources, clips, timings)
    )
    return _said(said, timings=timings)


@router.get("/{name}/duplicates", responses={**ASKED, **responses(422)})
async def list_duplicates(
    name: str,
    caller: CollectionsCaller,
    resources: InUse,
    threshold: Annotated[float, Query(ge=0, le=1, description="least similarity")] = 0.95,
    limit: Annotated[int, Query(ge=1, le=1000, description="images looked at in this call")] = 1000,
    after: After = None,
) -> DuplicatesAnswer:
    """Pairs of images that are nearly the same; go on with `after` while there is more."""
    collection = await find(name, caller, resources)
    return await duplicates(collection, threshold, limit, _printable(after), resources)


@router.get(
    "/{name}/export",
    response_class=Response,
    responses={
        200: {
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
            "description": "a line for the collection, then one for each image, its vector in base64",
        },
        **ASKED,
    },
)
async def export_collection(name: str, caller: CollectionsCaller, resources: InUse) -> Response:
    """Everything but the thumbnails, to be added elsewhere."""
    collection = await find(name, caller, resources)
    return StreamingResponse(export(collection, resources), media_type="application/x-ndjson")


@router.post(
    "/{name}/reindex",
    responses={200: {"model": ReindexAnswer}, **WRITTEN},
)
async def reindex_collection(
    request: Request,
    name: str,
    caller: CollectionsCaller,
    body: Annotated[ReindexRequest, JsonBody()],
    resources: InUse,
    clips: ClipsInUse,
) -> Response:
    """Embed the thumbnails of another collection with this one's model, some in each call."""
    collection = await find(name, caller, resources)
    source = await find(body.source, caller, resources)
    timings = Timings()
    said = await run_for_client(
        request, resources.settings, lambda: reindex(collection, source, body, resources, clips, timings)
    )
    return _said(said, timings=timings)


def _printable(after: str | None) -> str | None:
    # what is no Unicode is no id, but a place in their order all the same
    return None if after is None else after.encode("utf-8", "replace").decode()


def _said(said: BaseModel, status: int = 200, timings: Timings | None = None) -> Response:
    return JSONResponse(said.model_dump(mode="json"), status, timings.headers() if timings else None)
