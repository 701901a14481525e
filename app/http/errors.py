"""Errors that clients see: each exception carries its answer, sent as an RFC 9457 problem."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path
from starlette.types import Scope

from jobs import queue
from jobs.record import outbox, record
from models import generators
from storage import blobs
from storage.collections import collection, vector_sets

log = structlog.stdlib.get_logger(__name__)


class Fault(BaseModel, frozen=True):
    """One thing that is wrong with a request, and where."""

    pointer: str = Field(
        description="JSON pointer into the body, such as #/labels/3; or query/limit, header/x"
    )
    code: str
    detail: str


class OpenAIError(BaseModel):
    """An error in the form of OpenAI's API, whose clients look for it under `error`."""

    message: str
    type: str
    code: str
    param: str | None = Field(description="the field that is to blame, such as size or input.3")


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    code: str = Field(description="a stable word for programs")
    detail: str
    instance: str
    request_id: str
    retryable: bool
    errors: list[Fault] = []
    error: OpenAIError = Field(description="the same for clients of OpenAI's API")


@dataclass(frozen=True)
class Answer:
    """How one kind of error is answered."""

    status: int
    code: str
    title: str
    retry_after_s: int | None = None
    detail: str | None = None
    """Sent in place of the exception's message, where that is not for clients."""


class HttpProblem(Exception):
    """An error that a client sees. Each subclass has its `answer`."""

    answer: ClassVar[Answer]

    def __init__(self, detail: str, faults: Iterable[Fault] = ()) -> None:
        super().__init__(detail)
        self.faults = tuple(faults)


class MalformedHeader(HttpProblem):
    """A header cannot be parsed."""

    answer = Answer(400, "malformed_header", "Malformed header")


class UnsupportedBody(HttpProblem):
    """The content type or the encoding of the body is not supported."""

    answer = Answer(415, "unsupported_media_type", "Unsupported media type")


class BodyTooLarge(HttpProblem):
    """The body has more bytes than are allowed."""

    answer = Answer(413, "body_too_large", "The body is too large")


class BodyTimeout(HttpProblem):
    """The rest of the body did not arrive in time."""

    answer = Answer(408, "body_timeout", "The body did not arrive in time", 1)


class Overloaded(HttpProblem):
    """The service has as much work as it accepts."""

    answer = Answer(503, "overloaded", "The service is overloaded", 1)


INTERNAL = Answer(500, "internal_error", "Internal error", detail="the log of the service has the cause")
INVALID = Answer(422, "invalid_request", "Invalid request")
CLIENT_GONE = Answer(
    499, "client_gone", "Client closed request", detail="the client closed the connection before the answer"
)
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_FOREIGN: Mapping[type[Exception], Answer] = {  # exceptions of jobs, storage, models and the framework
    record.JobMissing: Answer(404, "job_not_found", "No such job", detail="there is no job of that id"),
    outbox.DeliveryMissing: Answer(404, "delivery_not_found", "No such delivery"),
    blobs.KeyMissing: Answer(404, "output_not_found", "No such output", detail="the file is gone"),
    collection.CollectionMissing: Answer(404, "collection_not_found", "No such collection"),
    queue.JobNotFinal: Answer(409, "job_not_final", "The job is not final"),
    generators.UnknownGenerator: Answer(422, "generator_not_found", "No such generator"),
    queue.IdempotencyConflict: Answer(
        422, "idempotency_conflict", "The Idempotency-Key was used for another request"
    ),
    queue.TenantQueueFull: Answer(429, "too_many_jobs", "Too many jobs of this key", 10),
    queue.QueueFull: Answer(503, "queue_full", "The queue is full", 10),
    blobs.StoreUnavailable: Answer(
        503, "store_unavailable", "The store is unavailable", 5, "the store of images cannot be reached"
    ),
    blobs.StorageFull: Answer(
        503, "storage_full", "The store is full", 60, "the store has no room for images"
    ),
    vector_sets.VectorsUnsupported: Answer(501, "vectors_unsupported", "Redis has no vector sets"),
    vector_sets.VectorsUnavailable: Answer(503, "vectors_unavailable", "Collections are unavailable", 2),
    collection.CollectionFull: Answer(507, "collection_full", "The collection is full"),
    vector_sets.VectorsFull: Answer(507, "vectors_full", "No memory is left for collections"),
    ClientDisconnect: CLIENT_GONE,
    TimeoutError: Answer(503, "timeout", "The request took too long", 1, "the request did not end in time"),
}


def answer_of(error: Exception) -> Answer:
    """How an exception is answered."""
    if isinstance(error, HttpProblem):
        return error.answer
    return next((_FOREIGN[kind] for kind in type(error).__mro__ if kind in _FOREIGN), INTERNAL)


def kinds_by_code() -> dict[str, type[Exception]]:
    """The exceptions that clients can see, by their codes."""
    own = {kind.answer.code: kind for kind in _subclasses(HttpProblem)}
    return {answer.code: kind for kind, answer in _FOREIGN.items()} | own


def _subclasses(kind: type[HttpProblem]) -> Iterator[type[HttpProblem]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


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
    # OpenAI's clients obey it: without it they repeat requests that got 409 or 500
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
    """An error in the form of OpenAI's API."""
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
    """Answer exceptions as problems, also those of the framework."""
    kinds: list[type[Exception]] = [HttpProblem, *_FOREIGN]
    for kind in kinds:
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_validation)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    return problem_of(request.scope, error)


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    details = {
        404: f"nothing is at {request.url.path}",
        405: f"{request.method} is not allowed at {request.url.path}",
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
    # of all routes at the path: a router knows only the first that matches
    operations = [
        names for pattern, names in app.openapi()["paths"].items() if compile_path(pattern)[0].match(path)
    ]
    return sorted({name.upper() for names in operations for name in names})
