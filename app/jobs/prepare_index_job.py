"""Requests for indexing: a body, or a tar as it comes, checked into a job to queue."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from fastapi import Request
from starlette.datastructures import Headers

from app.collections.service import find
from app.dependencies import Caller, Resources
from app.http.body import TAR, InvalidBody, check_limit, content_type, validate
from app.http.errors import Fault
from app.http.multipart import MalformedBody
from app.jobs.schemas import IndexArchiveRequest, IndexJobRequest, IndexUrl
from app.jobs.submit import Prepared, in_common
from app.settings import ApiSettings
from jobs.index_request import PART_BYTES, URLS, IndexRequest, archive_key
from jobs.queue import NewJob, new_id
from jobs.record.record import Output
from storage.collections.image_fields import is_image_id
from storage.net.safe_http import AddressRefused, check_url


def is_archive(headers: Headers) -> bool:
    """Whether the body of a request is a tar of images to index, which is stored while it arrives."""
    return content_type(headers) == TAR


async def prepare_index(body: IndexJobRequest, caller: Caller, resources: Resources) -> Prepared:
    """Check a request whole, and give it an id.

    Raises:
        app.dependencies.Forbidden, storage.collections.collection.CollectionMissing
        app.http.body.InvalidBody, app.http.body.LimitExceeded, app.jobs.submit.WebhooksOff
    """
    caller.require("collections")
    settings = resources.settings
    job_id, fields = new_id(), in_common(body, caller, settings)
    files: dict[str, bytes] = {}
    if body.folder is not None:
        _check_folder(body.folder, settings)
    items = None if body.urls is None else _urls(body.urls, settings)
    if items is not None:
        files[f"{job_id}/{URLS}"] = json.dumps(items, ensure_ascii=False).encode()
    await find(body.collection, caller, resources)
    request = IndexRequest(
        collection=body.collection,
        folder=body.folder,
        urls=None if items is None else len(items),
        replace=body.replace,
    )
    inputs = tuple(Output(URLS, key, "application/json", kind="urls") for key in files)
    fingerprint = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    return Prepared(NewJob(id=job_id, request=request, inputs=inputs, **fields), files, fingerprint)


async def receive_archive(request: Request, caller: Caller, resources: Resources) -> Prepared:
    """Keep a tar in the store while it comes; its query says what else a body would.

    Raises:
        app.http.body.MalformedBody: it is empty, or compressed.
        otherwise as `prepare_index`
    """
    caller.require("collections")
    settings = resources.settings
    body = validate(IndexArchiveRequest, dict(request.query_params), strict=False)
    job_id, fields = new_id(), in_common(body, caller, settings)
    await find(body.collection, caller, resources)
    digest = hashlib.sha256(body.model_dump_json().encode())
    size = 0
    try:
        async for part in _parts(request):
            if size == 0:
                _check_tar(part)
            digest.update(part)
            await resources.keep(archive_key(job_id, size // PART_BYTES), part)
            size += len(part)
        if size == 0:
            raise MalformedBody("the body is empty; expected a tar")
    except BaseException:
        await resources.forget(job_id)
        raise
    indexing = IndexRequest(collection=body.collection, archive=size, replace=body.replace)
    return Prepared(NewJob(id=job_id, request=indexing, **fields), {}, digest.hexdigest())


async def _parts(request: Request) -> Any:
    """A body in parts of PART_BYTES; the last one is shorter."""
    buffer = bytearray()
    async for chunk in request.stream():
        buffer += chunk
        while len(buffer) >= PART_BYTES:
            yield bytes(buffer[:PART_BYTES])
            del buffer[:PART_BYTES]
    if buffer:
        yield bytes(buffer)


def _check_tar(start: bytes) -> None:
    if start[:2] == b"\x1f\x8b" or start[:3] == b"BZh" or start[:6] == b"\xfd7zXZ\0" or start[:2] == b"PK":
        raise MalformedBody("expected a tar as it is, not compressed: pictures are so already")
    if len(start) < 512 or start[257:262] != b"ustar":
        raise MalformedBody("this is not a tar")


def _check_folder(folder: str, settings: ApiSettings) -> None:
    name = folder.partition("/")[0]
    if name in settings.index_roots and is_image_id(folder):
        return
    known = ", ".join(settings.index_roots)
    detail = (
        f"no such folder may be indexed; there {'is' if len(settings.index_roots) == 1 else 'are'} {known}, "
        "and what is below, without . and .."
        if known
        else "no folder of the service may be indexed: CLIPCANVAS_INDEX_ROOTS names none"
    )
    raise InvalidBody.at("#/folder", "folder_not_allowed", detail)


def _urls(urls: Sequence[IndexUrl], settings: ApiSettings) -> list[dict[str, Any]]:
    if not settings.fetch_urls:
        detail = "pictures are not fetched from addresses here: CLIPCANVAS_FETCH_URLS is off"
        raise InvalidBody.at("#/urls", "urls_not_fetched", detail)
    check_limit("#/urls", len(urls), settings.max_index_urls, "addresses")
    faults: list[Fault] = []
    items: dict[str, dict[str, Any]] = {}
    for index, item in enumerate(urls):
        pointer = f"#/urls/{index}"
        size = len(json.dumps(item.metadata, ensure_ascii=False).encode())
        check_limit(f"{pointer}/metadata", size, settings.max_metadata_bytes, "bytes of metadata")
        try:
            check_url(item.url, settings.fetch_rules)
        except AddressRefused as refused:
            faults.append(Fault(pointer=pointer, code="url_refused", detail=str(refused)))
        image_id = item.id or f"url-{hashlib.sha256(item.url.encode()).hexdigest()[:32]}"
        told = {"id": image_id, "url": item.url, "metadata": item.metadata}
        if items.setdefault(image_id, told) != told:
            faults.append(Fault(pointer=pointer, code="duplicate_id", detail="this id is there twice"))
    if faults:
        raise InvalidBody(faults)
    return list(items.values())
