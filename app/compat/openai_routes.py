"""Pictures as OpenAI's clients ask for them: a job is made, waited for, and answered with."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext, suppress
from typing import Annotated, Any

import anyio
import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from app.compat.openai_images import (
    DrawnImage,
    EditRequest,
    ImagesAnswer,
    ImagesRequest,
    Kind,
    StillDrawing,
    check_end,
    edit_form,
    event_of,
    format_of,
    in_its_words,
    job_of,
    pictures_of,
    size_of,
)
from app.dependencies import Caller, InUse, JobsCaller, QueueUnavailable, Resources
from app.http.body import JsonBody, JsonOrForm
from app.http.concurrency import ClientGone, while_connected
from app.http.errors import INTERNAL, answer_of, openai_error
from app.http.fields import TEXT
from app.http.route_docs import responses
from app.jobs.event_stream import PING_S, wait_for_end
from app.jobs.prepare_drawing import accept
from app.jobs.submit import POLL_S, RepeatKey, submit
from jobs.job_response import JobAnswer, url, view
from jobs.record.events import follow
from jobs.record.record import Job, JobMissing, Output
from storage.blobs import KeyMissing

log = structlog.stdlib.get_logger(__name__)

router = APIRouter(prefix="/v1/images", tags=["OpenAI"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ImagesAnswer,
        "content": {"text/event-stream": {}},
        "description": "the pictures, or with `stream` server-sent events",
    },
    202: {"model": JobAnswer, "description": "it takes longer; the job goes on at `Location`"},
    **responses(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503),
}
# OpenAI's clients ask events for tokens, and nothing here counts any
_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


@router.post("/generations", responses=_ANSWERS)
async def generate_images(
    request: Request,
    caller: JobsCaller,
    body: Annotated[ImagesRequest, JsonBody()],
    idempotency_key: RepeatKey,
    resources: InUse,
) -> Response:
    """Draw pictures, and wait for them. Without a key, the job is canceled if the client leaves."""
    return await _draw(request, body, "image_generation", idempotency_key, caller, resources)


_EDIT_PARTS = {
    **dict.fromkeys(("size", "quality", "response_format", "output_format", "background"), TEXT),
    **dict.fromkeys(("options", "moderation")),
}


@router.post("/edits", responses=_ANSWERS)
async def edit_image(
    request: Request,
    caller: JobsCaller,
    body: Annotated[EditRequest, JsonOrForm(from_form=edit_form, shown=_EDIT_PARTS)],
    idempotency_key: RepeatKey,
    resources: InUse,
) -> Response:
    """Draw over a picture, where the mask is transparent, and wait for it."""
    return await _draw(request, body, "image_edit", idempotency_key, caller, resources)


async def _draw(
    request: Request,
    asked: ImagesRequest,
    kind: Kind,
    idempotency_key: str | None,
    caller: Caller,
    resources: Resources,
) -> Response:
    who = caller.name or (request.client.host if request.client else "")
    if asked.stream:
        resources.streams.check(who)
    with in_its_words():
        loop = asyncio.get_running_loop()
        job = await loop.run_in_executor(resources.pool, job_of, asked, resources.settings)
        prepared = await accept(job, caller, resources)
        # who asks for pictures again does not ask for an old error, as who asks for a job would
        queued = await submit(prepared, job.generator, idempotency_key, resources, anew_if_broken_off=True)
    job_id = json.loads(bytes(queued.body))["id"]  # an earlier one, where the request is repeated
    waiting = nullcontext() if idempotency_key else _canceled_with_its_client(job_id, caller, resources)
    if asked.stream:
        return StreamingResponse(
            _stream(job_id, asked, kind, who, waiting, caller, resources),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
    return await _wait(request, job_id, asked, waiting, caller, resources)


async def _wait(
    request: Request,
    job_id: str,
    asked: ImagesRequest,
    waiting: AbstractAsyncContextManager[None],
    caller: Caller,
    resources: Resources,
) -> Response:
    ended = await resources.ask(resources.queue.get, job_id, caller.name)
    if not ended.status.is_final and not resources.waits.locked():
        async with resources.waits, waiting:
            await while_connected(request, wait_for_end(job_id, resources.settings.images_wait_s, resources))
        ended = await resources.ask(resources.queue.get, job_id, caller.name)
    if not ended.status.is_final:
        headers = {"Location": f"/v1/jobs/{job_id}", "Retry-After": str(POLL_S)}
        return Response(view(ended).model_dump_json(), 202, headers, media_type="application/json")
    check_end(ended)
    answer = await _answer(ended, asked, str(request.base_url).rstrip("/"), resources)
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


async def _answer(ended: Job, asked: ImagesRequest, base: str, resources: Resources) -> ImagesAnswer:
    pictures = pictures_of(ended)
    if asked.response_format == "url":
        data = [DrawnImage(url=base + url(ended.id, picture.name)) for picture in pictures]
    else:
        files = [await _read_picture(picture, resources) for picture in pictures]
        data = [DrawnImage(b64_json=base64.b64encode(file).decode()) for file in files]
    return ImagesAnswer(
        created=int(time.time()),
        data=data,
        output_format=format_of(pictures[0]),
        size=size_of(pictures[0]),
        job_id=ended.id,
    )


async def _stream(
    job_id: str,
    asked: ImagesRequest,
    kind: Kind,
    who: str,
    waiting: AbstractAsyncContextManager[None],
    caller: Caller,
    resources: Resources,
) -> AsyncGenerator[str]:
    """What the job draws as server-sent events: some previews, then the picture, or why there is none."""
    said: dict[str, Any] = {"quality": asked.quality or "auto"}
    with resources.streams.open(who):
        async with waiting:
            try:
                previews = _previews(job_id, asked.partial_images or 0, caller, resources)
                index = 0
                async with aclosing(previews):
                    async for preview in previews:
                        if preview is None:
                            yield ": ping\n\n"
                            continue
                        with suppress(KeyMissing):  # the next one has taken its place
                            data = await _read_picture(preview, resources)
                            more = {"partial_image_index": index, "created_at": int(time.time()), **said}
                            yield _message(event_of(kind, "partial_image", preview, data, **more))
                            index += 1
                ended = await resources.ask(resources.queue.get, job_id, caller.name)
                if not ended.status.is_final:
                    raise StillDrawing(f"it takes longer; the job goes on: /v1/jobs/{job_id}")
                check_end(ended)
                [picture] = pictures_of(ended)
                data = await _read_picture(picture, resources)
                more = {"created_at": int(time.time()), "usage": _USAGE, **said}
                yield _message(event_of(kind, "completed", picture, data, **more))
            except Exception as error:
                answer = answer_of(error)
                if answer is INTERNAL:
                    log.exception("stream of pictures broke off", job_id=job_id)
                told = openai_error(answer, answer.detail or str(error)).model_dump()
                yield _message({"type": "error", "error": told})


async def _previews(
    job_id: str, count: int, caller: Caller, resources: Resources
) -> AsyncGenerator[Output | None]:
    """So many previews, evenly over the steps, to the job's end; None when nothing was told for a while."""
    if (await resources.ask(resources.queue.get, job_id, caller.name)).status.is_final:
        return  # it is asked for again, and its events may be gone
    fraction, told, quiet_s = 0.0, 0, 0.0
    ends = time.monotonic() + resources.settings.images_wait_s
    async with aclosing(follow(resources.events, job_id)) as events:
        while time.monotonic() < ends and not resources.stopping.is_set():
            event = await anext(events)
            if event is None:
                quiet_s += 1
            elif event.event == "completed":
                return
            elif event.event == "progress":
                progress = json.loads(event.data)
                fraction = progress["step"] / progress["steps"]
            elif event.event == "preview" and told < count and fraction * (count + 1) >= told + 1:
                told, quiet_s = told + 1, 0.0
                yield Output(**json.loads(event.data))
            if quiet_s >= PING_S:
                quiet_s = 0.0
                yield None


@asynccontextmanager
async def _canceled_with_its_client(job_id: str, caller: Caller, resources: Resources) -> AsyncIterator[None]:
    """Cancels the job if its client leaves meanwhile."""
    try:
        yield
    except (ClientGone, asyncio.CancelledError, GeneratorExit):
        with anyio.CancelScope(shield=True), suppress(QueueUnavailable, JobMissing):
            await resources.ask(resources.queue.cancel, job_id, caller.name)
        log.info("job canceled: its client left", job_id=job_id)
        raise


async def _read_picture(picture: Output, resources: Resources) -> bytes:
    return await asyncio.to_thread(resources.store.read, picture.key)


def _message(event: dict[str, Any]) -> str:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
