"""Every error that a client can meet: one table from exceptions to answers, all as RFC 9457 problems."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path
from starlette.types import Scope

from app import dependencies
from app.clip import batched_clip, batcher, registry
from app.collections import search, service, transfer
from app.compat import openai_images
from app.http import auth, concurrency, image_input, multipart, streams
from app.http import body as bodies
from app.jobs import prepare_drawing, submit
from app.schemas import Fault, OpenAIError, Problem
from jobs import queue
from jobs.record import outbox, record
from models import generators
from storage import blobs
from storage.collections import collection, vector_sets

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Answer:
    """How one kind of error is answered."""

    status: int
    code: str
    title: str
    retry_after_s: int | None = None
    detail: str | None = None  # instead of the exception's own words, where those are not for clients


INTERNAL = Answer(
    500, "internal_error", "Something went wrong here", detail="the service's log has the cause"
)
INVALID = Answer(422, "invalid_request", "The request is not valid")
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_GONE = Answer(499, "client_gone", "Nobody reads this", detail="the client left before the answer")

ANSWERS: dict[type[Exception], Answer] = {
    multipart.MalformedBody: Answer(400, "malformed_body", "The body cannot be parsed"),
    bodies.MalformedHeader: Answer(400, "malformed_header", "A header cannot be parsed"),
    auth.Unauthenticated: Answer(401, "invalid_api_key", "A valid API key is needed"),
    auth.Forbidden: Answer(403, "missing_scope", "The API key may not do this"),
    registry.ModelNotFound: Answer(404, "model_not_found", "No such model"),
    record.JobMissing: Answer(404, "job_not_found", "No such job", detail="there is no job of that id"),
    outbox.DeliveryMissing: Answer(404, "delivery_not_found", "No such delivery"),
    prepare_drawing.OutputMissing: Answer(404, "output_not_found", "No such output"),
    blobs.KeyMissing: Answer(404, "output_not_found", "No such output", detail="the file is gone"),
    collection.CollectionMissing: Answer(404, "collection_not_found", "No such collection"),
    service.ImageMissing: Answer(404, "image_not_found", "No such image"),
    service.ThumbnailMissing: Answer(404, "thumbnail_not_found", "No such thumbnail"),
    bodies.BodyTimeout: Answer(408, "body_timeout", "The body did not come", 1),
    queue.JobNotFinal: Answer(409, "job_not_final", "The job is not final"),
    prepare_drawing.JobIsFinal: Answer(409, "job_final", "The job is final"),
    openai_images.DrawingCanceled: Answer(409, "job_canceled", "The job was canceled"),
    service.CollectionConflict: Answer(409, "collection_exists", "The collection is another one"),
    service.ModelMismatch: Answer(409, "model_mismatch", "The collection is of another model"),
    transfer.ThumbnailsNotKept: Answer(409, "thumbnails_not_kept", "The collection keeps no thumbnails"),
    bodies.BodyTooLarge: Answer(413, "body_too_large", "The body is too long"),
    image_input.ImageTooLarge: Answer(413, "image_too_large", "A picture is too large"),
    bodies.UnsupportedBody: Answer(415, "unsupported_media_type", "The media type is not supported"),
    image_input.UnsupportedImage: Answer(415, "unsupported_image", "The image format is not supported"),
    bodies.InvalidBody: INVALID,
    bodies.LimitExceeded: Answer(422, "limit_exceeded", "More than is allowed"),
    batched_clip.TextRefused: Answer(422, "text_too_long", "A text is too long"),
    image_input.ImageRefused: Answer(422, "invalid_image", "A picture cannot be read"),
    image_input.ImageUrlRefused: Answer(422, "image_url_refused", "Pictures are not fetched from addresses"),
    search.InvalidFilter: Answer(422, "invalid_filter", "The filter is not an expression"),
    openai_images.DrawingFailed: Answer(422, "drawing_failed", "It cannot be drawn"),
    submit.WebhooksOff: Answer(422, "webhooks_not_configured", "No webhooks are sent here"),
    generators.UnknownGenerator: Answer(422, "generator_not_found", "No such generator"),
    queue.IdempotencyConflict: Answer(422, "idempotency_conflict", "The Idempotency-Key is in use"),
    concurrency.ClientGone: _GONE,
    ClientDisconnect: _GONE,
    queue.TenantQueueFull: Answer(429, "too_many_jobs", "Too many jobs wait", 10),
    streams.TooManyStreams: Answer(429, "too_many_streams", "Too many event streams are open", 5),
    vector_sets.VectorsUnsupported: Answer(501, "vectors_unsupported", "The Redis here has no vector sets"),
    batcher.Overloaded: Answer(503, "overloaded", "The service is overloaded", 1),
    registry.ModelLoading: Answer(503, "model_loading", "The model is loading", 5),
    registry.ModelUnavailable: Answer(503, "model_unavailable", "The model could not be loaded", 60),
    openai_images.DrawingInterrupted: Answer(503, "drawing_interrupted", "The drawing broke off", 5),
    queue.QueueFull: Answer(503, "queue_full", "The queue is full", 10),
    blobs.StoreUnavailable: Answer(
        503, "store_unavailable", "The store is away", 5, "the store of pictures cannot be reached"
    ),
    blobs.StorageFull: Answer(503, "storage_full", "No room is left", 60, "no room is left for pictures"),
    dependencies.QueueUnavailable: Answer(
        503, "queue_unavailable", "The job queue is not there", 2, "try again soon"
    ),
    vector_sets.VectorsUnavailable: Answer(503, "vectors_unavailable", "The collections are not there", 2),
    openai_images.StillDrawing: Answer(504, "still_drawing", "It takes longer"),
    concurrency.DeadlineExceeded: Answer(504, "deadline_exceeded", "The time is over"),
    collection.CollectionFull: Answer(507, "collection_full", "The collection is full"),
    vector_sets.VectorsFull: Answer(507, "vectors_full", "No memory is left for collections"),
    TimeoutError: Answer(503, "timeout", "It took too long", 1, "the request did not end in time"),
}


def answer_of(error: Exception) -> Answer:
    """What an exception is answered with: its own kind's entry, or that of the nearest kind above it."""
    return next((ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS), INTERNAL)


def problem(
    scope: Scope,
    answer: Answer,
    detail: str,
    faults: Sequence[Fault] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer as `application/problem+json`."""
    scope.setdefault("state", {})["problem_code"] = answer.code
    retryable = answer.status in (408, 429, 503, 504)
    body = Problem(
        type=f"urn:clipcanvas:problem:{answer.code}",
        title=answer.title,
        status=answer.status,
        code=answer.code,
        detail=_printable(detail),
        instance=_printable(scope["path"]),
        request_id=scope["state"].get("request_id", ""),
        retryable=retryable,
        errors=list(faults),
        error=openai_error(answer, detail, faults),
    )
    # OpenAI's clients go by it: without it they would send again what is 409 or 500
    extra = {"X-Should-Retry": str(retryable).lower()}
    if answer.retry_after_s:
        extra["Retry-After"] = str(answer.retry_after_s)
    if answer.status == HTTPStatus.UNAUTHORIZED:
        extra["WWW-Authenticate"] = "Bearer"
    return JSONResponse(
        body.model_dump(),
        answer.status,
        {**(headers or {}), **extra},
        media_type="application/problem+json",
    )


def openai_error(answer: Answer, detail: str, faults: Sequence[Fault] = ()) -> OpenAIError:
    """An error as OpenAI's API tells it."""
    kind = _OPENAI_TYPES.get(
        answer.status, "server_error" if answer.status >= 500 else "invalid_request_error"
    )
    pointer = faults[0].pointer.removeprefix("#").strip("/") if faults else ""
    param = pointer.replace("/", ".") or None
    return OpenAIError(message=_printable(detail), type=kind, code=answer.code, param=param)


def problem_of(scope: Scope, error: Exception) -> JSONResponse:
    """The answer to an exception."""
    answer = answer_of(error)
    if answer is INTERNAL:
        log.error("request failed", exc_info=error)
    return problem(scope, answer, answer.detail or str(error), getattr(error, "faults", ()))


def install(app: FastAPI) -> None:
    """Answer the exceptions of the table, and the framework's own, as problems."""
    for kind in ANSWERS:
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_validation)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    return problem_of(request.scope, error)


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    details = {
        404: f"there is nothing at {request.url.path}",
        405: f"{request.method} is not possible at {request.url.path}",
    }
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods_of(request.app, request.url.path))
    answer = Answer(error.status_code, phrase.lower().replace(" ", "_").replace("-", "_"), phrase)
    return problem(request.scope, answer, details.get(error.status_code, phrase), headers=headers)


async def _answer_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [
        Fault(pointer="/".join(str(step) for step in item["loc"]), code=item["type"], detail=item["msg"])
        for item in error.errors()
    ]
    return problem(
        request.scope, INVALID, "; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults), faults
    )


def _printable(text: str) -> str:
    # half a surrogate pair cannot be encoded
    return text.encode("utf-8", "replace").decode()[:2000]


def _methods_of(app: FastAPI, path: str) -> list[str]:
    # of all routes there, where a router knows only of the first that matches
    operations = [
        names for pattern, names in app.openapi()["paths"].items() if compile_path(pattern)[0].match(path)
    ]
    return sorted({name.upper() for names in operations for name in names})
