"""Collections: what routes do with images and queries before and after the vector sets."""

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from app.clip.batched_clip import BatchedClip, Timings
from app.clip.registry import Clips
from app.collections.requests import COLLECTION_NAME, AddRequest, CollectionRequest, NewImage
from app.collections.responses import Added, CollectionAnswer, ImageAnswer
from app.collections.thumbnail_writer import make_thumbnails, save_thumbnails
from app.dependencies import Caller, Resources
from app.http.body import InvalidBody, Parts, check_limit
from app.http.errors import Answer, Fault, HttpProblem
from app.http.image_input import Source, file_of
from app.settings import ApiSettings
from storage.collections.collection import Collection, CollectionMissing, Image
from storage.collections.image_fields import is_image_id
from storage.collections.thumbnails import thumbnail_key
from storage.collections.vector_sets import Rows

PAGE = 500  # images that one call of the vector Redis reads or writes


class CollectionConflict(HttpProblem):
    """The collection exists with other properties."""

    answer = Answer(409, "collection_exists", "The collection exists")


class ModelMismatch(HttpProblem):
    """The request is for another model than the collection's."""

    answer = Answer(409, "model_mismatch", "The collection has another model")


class ImageMissing(HttpProblem):
    """The collection has no image of that id."""

    answer = Answer(404, "image_not_found", "No such image")


class ThumbnailMissing(HttpProblem):
    """The image has no thumbnail."""

    answer = Answer(404, "thumbnail_not_found", "No such thumbnail")


async def create(
    name: str, asked: CollectionRequest, caller: Caller, resources: Resources, clips: Clips
) -> tuple[Collection, bool]:
    """The collection of that name, and whether it is new.

    Raises:
        CollectionConflict: it is there and differs in what the request says.
        ModelNotFound, ModelLoading, InvalidBody, LimitExceeded
    """
    if not re.fullmatch(COLLECTION_NAME, name):
        detail = "a name has 1 to 64 letters, digits, ., - and _, and starts with a letter or a digit"
        raise InvalidBody.at("path/name", "collection_name", detail)
    said = asked.model_dump(exclude_none=True)
    try:
        there = await resources.ask_vectors(resources.vectors.get, caller.name, name)
    except CollectionMissing:
        encoder = clips.get(asked.model).encoder
        known = await resources.ask_vectors(resources.vectors.find, caller.name)
        check_limit("#", len(known) + 1, resources.settings.max_collections_per_key, "collections")
        values = {**said, "model": asked.model or next(iter(clips.cards))}
        new = Collection(tenant=caller.name, name=name, dimension=encoder.dimension, **values)
        there = await resources.ask_vectors(resources.vectors.create, new)
        if there.uid == new.uid:
            return there, True
    for field, value in said.items():
        if getattr(there, field) != value:
            raise CollectionConflict(
                f"the collection {name!r} is there, with {field} {getattr(there, field)}"
            )
    return there, False


async def find(name: str, caller: Caller, resources: Resources, model: str | None = None) -> Collection:
    """The caller's collection of that name.

    Args:
        model: what the request says that it is made for, if it does.

    Raises:
        CollectionMissing, ModelMismatch
    """
    if not re.fullmatch(COLLECTION_NAME, name):
        raise CollectionMissing("no collection can have that name")
    collection = await resources.ask_vectors(resources.vectors.get, caller.name, name)
    if model not in (None, collection.model):
        raise ModelMismatch(f"the collection {name!r} is of {collection.model}, not of {model}")
    return collection


def check_image_id(text: str) -> str:
    """The id itself. Raises ImageMissing: no image can have it."""
    if not is_image_id(text):
        raise ImageMissing("no image can have that id")
    return text


def clip_of(collection: Collection, clips: Clips) -> BatchedClip:
    """The collection's own model.

    Raises:
        ModelMismatch: another model goes by that name now.
        app.clip.registry.ModelNotFound, app.clip.registry.ModelLoading, app.clip.registry.ModelUnavailable
    """
    clip = clips.get(collection.model)
    if clip.encoder.dimension != collection.dimension:
        raise ModelMismatch(
            f"{collection.model} makes vectors of {clip.encoder.dimension} numbers now; "
            f"those of the collection have {collection.dimension}"
        )
    return clip


def add_form(parts: Parts) -> dict[str, Any]:
    """The fields of an `AddRequest`: `id`, `metadata` and `source_url` are of the `image` before them."""
    fields: dict[str, Any] = {"images": []}
    for name, value in parts:
        if name == "image":
            fields["images"].append({"image": value})
        elif name in ("id", "metadata", "source_url"):
            at = fields["images"][-1] if fields["images"] else {}
            if not at or name in at:
                detail = "it follows the image that it is of, once"
                raise InvalidBody.at(f"#/{name}", "misplaced_field", detail)
            at[name] = _json(name, value) if name == "metadata" else value
        else:
            fields[name] = value
    return fields


async def add(
    collection: Collection, asked: AddRequest, resources: Resources, clips: Clips, timings: Timings
) -> list[Added]:
    """Embed and keep images. Nothing is added if one of them is refused.

    Raises:
        app.http.body.InvalidBody, app.http.body.LimitExceeded, app.http.image_input.ImageRefused
        VectorsFull, CollectionFull, CollectionMissing
    """
    _check_images(asked.images, collection, resources.settings)
    await check_memory(resources)
    places = enumerate(asked.images)
    sources = {i: Source(new.image, f"#/images/{i}/image") for i, new in places if new.image is not None}
    rows = np.zeros((len(asked.images), collection.dimension), np.float32)
    for row, new in zip(rows, asked.images, strict=True):
        if new.vector is not None:
            row[:] = new.vector
    thumbnails: Mapping[int, bytes] = {}
    if sources:
        embedded = await clip_of(collection, clips).embed_images([*sources.values()], timings)
        rows[[*sources]] = embedded
        if collection.thumbnails:
            thumbnails = await make_thumbnails(sources, resources)
    ids = await _ids(asked.images, sources, rows, resources)
    images = [
        Image(image_id, new.metadata, new.source_url, thumbnail=index in thumbnails)
        for index, (image_id, new) in enumerate(zip(ids, asked.images, strict=True))
    ]
    await save_thumbnails(
        {thumbnail_key(collection, ids[index]): data for index, data in thumbnails.items()}, resources
    )
    return await keep(collection, images, rows, resources)


def view(collection: Collection) -> CollectionAnswer:
    """A collection, as the client sees it."""
    fields = CollectionAnswer.model_fields.keys() - {"object"}
    return CollectionAnswer(**{name: getattr(collection, name) for name in fields})


def view_image(collection: Collection, image: Image) -> ImageAnswer:
    """An image, as the client sees it."""
    path = f"/v1/collections/{collection.name}/thumbnails/{quote(image.id)}"
    return ImageAnswer(
        id=image.id,
        metadata=dict(image.metadata),
        source_url=image.source_url,
        thumbnail_url=path if image.thumbnail else None,
    )


def check_vectors(vectors: Mapping[str, Rows], collection: Collection) -> None:
    """Raises InvalidBody: some, by their pointers, have another dimension than the collection."""
    faults = [
        Fault(
            pointer=pointer,
            code="vector_dimension",
            detail=f"{len(vector)} numbers; vectors of {collection.model} have {collection.dimension}",
        )
        for pointer, vector in vectors.items()
        if len(vector) != collection.dimension
    ]
    if faults:
        raise InvalidBody(faults)


def _check_images(images: Sequence[NewImage], collection: Collection, settings: ApiSettings) -> None:
    check_limit("#/images", len(images), settings.max_vectors, "images with vectors")
    pictures = sum(new.image is not None for new in images)
    check_limit("#/images", pictures, settings.max_images, "images")
    check_vectors(
        {f"#/images/{i}/vector": new.vector for i, new in enumerate(images) if new.vector is not None},
        collection,
    )
    seen: set[str] = set()
    faults: list[Fault] = []
    for index, new in enumerate(images):
        size = len(json.dumps(new.metadata, ensure_ascii=False).encode())
        check_limit(f"#/images/{index}/metadata", size, settings.max_metadata_bytes, "bytes of metadata")
        if new.id in seen:
            detail = "this id is there twice"
            faults.append(Fault(pointer=f"#/images/{index}/id", code="duplicate_id", detail=detail))
        seen |= {new.id} if new.id is not None else set()
    if faults:
        raise InvalidBody(faults)


async def check_memory(resources: Resources) -> None:
    """Raises VectorsFull: so much is used that nothing may be added."""
    await resources.ask_vectors(resources.vectors.check_room, resources.settings.vector_memory_share)


async def keep(
    collection: Collection, images: Sequence[Image], rows: Rows, resources: Resources
) -> list[Added]:
    """Add images with their vectors (N, D). Raises as `VectorSets.add`."""
    added: list[Added] = []
    for start in range(0, len(images), PAGE):
        some = images[start : start + PAGE]
        created = await resources.ask_vectors(
            resources.vectors.add,
            collection,
            some,
            rows[start : start + PAGE],
            resources.settings.max_collection_images,
        )
        resources.metrics.images_added.inc(len(some))
        added += [Added(id=image.id, created=new) for image, new in zip(some, created, strict=True)]
    return added


async def _ids(
    images: Sequence[NewImage], sources: Mapping[int, Source], rows: Rows, resources: Resources
) -> list[str]:
    """What was said, or else the hash of the picture or vector: what is sent twice is there once."""

    def identify(index: int) -> str:
        said = images[index].id
        if said is not None:
            return said
        data = file_of(sources[index]) if index in sources else rows[index].astype("<f4").tobytes()
        return f"sha256-{hashlib.sha256(data).hexdigest()[:32]}"

    loop = asyncio.get_running_loop()
    return await asyncio.gather(
        *(loop.run_in_executor(resources.pool, identify, index) for index in range(len(images)))
    )


def _json(name: str, value: str | bytes) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise InvalidBody.at(f"#/{name}", "malformed_json", "not JSON") from None
