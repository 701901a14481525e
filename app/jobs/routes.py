"""Jobs over HTTP: they are made, followed, fetched, canceled and deleted here."""

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from app.dependencies import Caller, InUse, JobsCaller, Resources
from app.http.body import TAR, InvalidBody, JsonBody
from app.http.concurrency import while_connected
from app.http.file_response import file_response, is_known
from app.http.route_docs import FILE, query_parameters, responses
from app.jobs.event_stream import START, check_event_id, has_seen_the_end, stream, wait_for_end
from app.jobs.prepare_drawing import (
    JOB_ID,
    JobIsFinal,
    OutputMissing,
    accept,
    check_delivery_id,
    check_job_id,
    view_delivery,
)
from app.jobs.prepare_index_job import is_archive, prepare_index, receive_archive
from app.jobs.schemas import (
    DeliveryAnswer,
    DeliveryList,
    IndexArchiveRequest,
    IndexJobRequest,
    JobList,
    JobRequest,
)
from app.jobs.submit import POLL_S, RepeatKey, submit
from jobs.job_response import JobAnswer, view
from jobs.record.record import Job, JobMissing, Status
from storage.blobs import KeyMissing, Store

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

OUTPUT_TYPES = (
    "image/png",
    "image/jpeg",
    "image/webp",
    "image/svg+xml",
    "application/json",
    "video/mp4",
    "application/zip",
)
_BODY = JsonBody(
    is_streamed=is_archive,
    streamed={TAR: FILE},
    max_streamed_bytes=lambda settings: settings.max_archive_bytes,
    query=query_parameters(
        IndexArchiveRequest, ("type", "priority", "collection", "replace"), required=False
    ),
)
_WAIT = re.compile(r'(?:^|[,;]\s*)wait="?(\d{1,6})"?(?=\s*(?:$|[,;]))', re.IGNORECASE)

IfNoneMatch = Annotated[str | None, Header(description="ETags; 304 if one is still right")]


@router.post(
    "",
    status_code=202,
    responses={202: {"model": JobAnswer}, **responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 501, 503)},
)
async def create_job(
    request: Request,
    caller: JobsCaller,
    idempotency_key: RepeatKey,
    body: Annotated[JobRequest | IndexJobRequest | None, _BODY],
    resources: InUse,
) -> Response:
    """Queue a drawing, or the indexing of many pictures; a tar of them is sent as it is."""
    if isinstance(body, JobRequest):
        prepared = await accept(body, caller, resources)
        return await submit(prepared, body.generator, idempotency_key, resources)
    if body is None:
        prepared = await receive_archive(request, caller, resources)
    else:
        prepared = await prepare_index(body, caller, resources)
    return await submit(prepared, "index", idempotency_key, resources)


@router.get("", responses=responses(401, 403, 422, 503))
async def list_jobs(
    caller: JobsCaller,
    resources: InUse,
    status: Status | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(pattern=JOB_ID, description="the last_id of the page before")] = None,
) -> JobList:
    """The caller's jobs, newest first."""
    try:
        jobs, has_more = await resources.ask(
            resources.queue.find, caller.name, status=status, limit=limit, after=after
        )
    except JobMissing:
        raise InvalidBody.at("query/after", "job_not_found", "there is no job of that id") from None
    return JobList(data=[view(job) for job in jobs], has_more=has_more, last_id=jobs[-1].id if jobs else None)


@router.get(
    "/{job_id}",
    responses={
        200: {"model": JobAnswer},
        304: {"description": "not changed"},
        **responses(401, 403, 404, 503),
    },
)
async def show_job(
    request: Request,
    job_id: str,
    caller: JobsCaller,
    resources: InUse,
    if_none_match: IfNoneMatch = None,
    prefer: Annotated[
        str | None, Header(description="wait=N: answer when the job is final, or after N s")
    ] = None,
) -> Response:
    """A job as it stands."""
    job = await _get(job_id, caller, resources)
    headers = {"Cache-Control": "private, no-cache", "Vary": "Prefer"}
    wait = _WAIT.search(prefer or "")
    if wait and not job.status.is_final and not resources.waits.locked():
        seconds = min(int(wait[1]), resources.settings.max_wait_s)
        async with resources.waits:
            await while_connected(request, wait_for_end(job.id, seconds, resources))
        job = await _get(job_id, caller, resources)
        headers["Preference-Applied"] = f"wait={seconds}"
    headers["ETag"] = f'"{job.seq}"'
    if not job.status.is_final:
        headers["Retry-After"] = str(POLL_S)
    if is_known(headers["ETag"], if_none_match):
        return Response(status_code=304, headers=headers)
    return _job(job, headers=headers)


@router.post(
    "/{job_id}/cancel",
    responses={
        200: {"model": JobAnswer, "description": "it waited, or was canceled already"},
        202: {"model": JobAnswer, "description": "it runs, and stops within a step"},
        **responses(401, 403, 404, 409, 503),
    },
)
async def cancel_job(job_id: str, caller: JobsCaller, resources: InUse) -> Response:
    """Stop a job."""
    outcome = await resources.ask(resources.queue.cancel, check_job_id(job_id), caller.name)
    if outcome not in (Status.CANCELED, "requested"):
        raise JobIsFinal(f"the job is {outcome} already")
    return _job(await _get(job_id, caller, resources), 202 if outcome == "requested" else 200)


@router.delete("/{job_id}", status_code=204, responses=responses(401, 403, 404, 409, 503))
async def delete_job(job_id: str, caller: JobsCaller, resources: InUse) -> None:
    """Forget a final job and its files."""
    await resources.ask(resources.queue.delete, check_job_id(job_id), caller.name)
    await asyncio.to_thread(resources.store.delete, job_id)


@router.get(
    "/{job_id}/events",
    response_class=Response,
    responses={
        200: {
            "content": {"text/event-stream": {}},
            "description": "server-sent events",
        },
        204: {"description": "the client has had every event"},
        **responses(400, 401, 403, 404, 429, 503),
    },
)
async def follow_job(
    request: Request,
    job_id: str,
    caller: JobsCaller,
    resources: InUse,
    last_event_id: Annotated[str | None, Header(description="go on after this event")] = None,
    after: Annotated[str | None, Query(description="the same, for clients that cannot set headers")] = None,
) -> Response:
    """What happens to a job, as it happens: status, progress, preview, frame, completed."""
    start = check_event_id(last_event_id or after or START)
    who = caller.name or (request.client.host if request.client else "")
    resources.streams.check(who)
    job = await _get(job_id, caller, resources)
    if await has_seen_the_end(job, start, resources):
        return Response(status_code=204)  # tells an EventSource not to come back
    return StreamingResponse(
        stream(job, start, who, resources),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


@router.get("/{job_id}/webhook-deliveries", responses=responses(401, 403, 404, 503))
async def list_deliveries(job_id: str, caller: JobsCaller, resources: InUse) -> DeliveryList:
    """What a job's webhook was told, and is to be told yet."""
    found = await resources.ask(resources.outbox.deliveries, check_job_id(job_id), caller.name)
    return DeliveryList(data=[view_delivery(delivery) for delivery in found])


@router.post(
    "/{job_id}/webhook-deliveries/{delivery_id}/redeliver",
    status_code=202,
    responses=responses(401, 403, 404, 503),
)
async def redeliver(job_id: str, delivery_id: str, caller: JobsCaller, resources: InUse) -> DeliveryAnswer:
    """Send a delivery once more, under its own id."""
    delivery = await resources.ask(
        resources.outbox.redeliver, check_job_id(job_id), caller.name, check_delivery_id(delivery_id)
    )
    return view_delivery(delivery)


@router.get(
    "/{job_id}/outputs/{name}",
    response_class=Response,
    responses={
        200: {
            "content": {kind: {} for kind in OUTPUT_TYPES},
            "description": "the file",
        },
        206: {"description": "the part that Range asked for"},
        304: {"description": "not changed"},
        416: {"description": "the file has no such part"},
        **responses(401, 403, 404, 503),
    },
)
async def fetch_output(
    job_id: str,
    name: str,
    caller: JobsCaller,
    resources: InUse,
    if_none_match: IfNoneMatch = None,
    if_range: Annotated[str | None, Header()] = None,
    byte_range: Annotated[str | None, Header(alias="Range", description="bytes=first-last")] = None,
) -> Response:
    """A file of a job: an output, its newest preview, a frame, or a picture that the request brought."""
    job = await _get(job_id, caller, resources)
    # from the record, or of one form: a name of a stranger's making never reaches the store
    file = job.file(name)
    keys = job.frame_keys(name) if file is None else [file.key]
    if not keys:
        raise OutputMissing("the job has no file of that name")
    return file_response(
        await asyncio.to_thread(_read_first, resources.store, keys),
        name=name,
        content_type="image/png" if file is None else file.content_type,
        final=file in job.outputs or file in job.inputs,
        if_none_match=if_none_match,
        byte_range=byte_range,
        if_range=if_range,
    )


def _read_first(store: Store, keys: Sequence[str]) -> bytes:
    for key in keys[:-1]:
        with contextlib.suppress(KeyMissing):
            return store.read(key)
    return store.read(keys[-1])


async def _get(job_id: str, caller: Caller, resources: Resources) -> Job:
    return await resources.ask(resources.queue.get, check_job_id(job_id), caller.name)


def _job(job: Job, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(view(job).model_dump_json(), status, headers, media_type="application/json")
