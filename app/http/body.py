"""Request bodies: JSON or a form in, a checked model out, or every fault with its place."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers

from app.http.errors import INVALID, Answer, Fault, HttpProblem
from app.http.multipart import FormSplitter, MalformedBody

Model = TypeVar("Model", bound=BaseModel)
Parts = Sequence[tuple[str, str | bytes]]  # of a form, in order: names and values; bytes are files

JSON = "application/json"
MULTIPART = "multipart/form-data"
TAR = "application/x-tar"
LINES = "application/x-ndjson"
NPY = "application/x-npy"
_MAX_FAULTS = 100
_WORDS = {  # where pydantic's speak of Python
    "extra_forbidden": "this field is not known",
    "missing": "this field is missing",
    "model_type": "this must be an object",
    "dict_type": "this must be an object",
    "list_type": "this must be a list",
    "string_unicode": "this is not Unicode text",
}


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


class InvalidBody(HttpProblem):
    """Values of the request are invalid; `faults` lists all of them."""

    answer = INVALID

    def __init__(self, faults: Iterable[Fault]) -> None:
        faults = tuple(faults)[:_MAX_FAULTS]
        super().__init__("; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults[:3]), faults)

    @classmethod
    def at(cls, pointer: str, code: str, detail: str) -> Self:
        """One fault."""
        return cls([Fault(pointer=pointer, code=code, detail=detail)])


class LimitExceeded(HttpProblem):
    """The request has more of something than is allowed."""

    answer = Answer(422, "limit_exceeded", "A limit is exceeded")

    def __init__(self, pointer: str, count: int, limit: int, what: str) -> None:
        detail = f"{count} {what}; at most {limit} are allowed"
        super().__init__(detail, [Fault(pointer=pointer, code=self.answer.code, detail=detail)])


def check_limit(pointer: str, count: int, limit: int, what: str) -> None:
    """Raises LimitExceeded if there are too many."""
    if count > limit:
        raise LimitExceeded(pointer, count, limit, what)


async def read_json(request: Request, expected: str) -> Any:
    """The body of a request, parsed.

    Args:
        expected: the content types that the route takes.

    Raises:
        UnsupportedBody, MalformedBody, BodyTooLarge, BodyTimeout
    """
    kind = content_type(request.headers)
    body = await request.body()
    if not body:
        raise MalformedBody(f"the body is empty; expected {expected}")
    if kind != JSON and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedBody(f"the content type is {kind or 'not said'}; expected {expected}")
    return parse_json(body)


def content_type(headers: Headers) -> str:
    """What the body is said to be, without parameters; empty: nothing is said."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def fields_of(parts: Parts, lists: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """A form's parts as the fields of a model.

    Args:
        lists: the parts that may be there several times, with their names in the model.

    Raises:
        InvalidBody: another one is there twice.
    """
    fields: dict[str, Any] = {}
    for name, value in parts:
        if name in lists:
            fields.setdefault(lists[name], []).append(value)
        elif name in fields:
            pointer = f"#/{_escape(name)}"
            raise InvalidBody.at(pointer, "duplicate_field", "this field is there twice")
        else:
            fields[name] = value
    return fields


def validate(model: type[Model], values: Any, *, strict: bool, at: str = "#") -> Model:
    """The model of those values.

    Args:
        strict: no text for numbers and the like; forms cannot be strict.
        at: where in the request they were.

    Raises:
        InvalidBody: with all faults.
    """
    try:
        return model.model_validate(values, strict=strict)
    except ValidationError as error:
        raise InvalidBody(faults_of(error, at)) from None


def faults_of(error: ValidationError, at: str = "#") -> list[Fault]:
    """What pydantic found, with pointers below `at`."""
    return [
        Fault(
            pointer="/".join([at, *(_escape(step) for step in item["loc"])]),
            code=item["type"],
            detail=_WORDS.get(item["type"], item["msg"].removeprefix("Value error, ")),
        )
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def parse_json(body: bytes) -> Any:
    """JSON as RFC 8259 has it: no NaN, no infinity; and no name twice in one object.

    Raises:
        MalformedBody: it is something else.
        InvalidBody: a name is there twice.
    """
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.extend(sorted({name for name in names if names.count(name) > 1})[:_MAX_FAULTS])
        return fields

    try:
        value = json.loads(body, object_pairs_hook=unique, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise MalformedBody("the JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise MalformedBody(f"not JSON: {error.msg}, at character {error.pos}") from None
    except ValueError as error:  # not UTF-8, NaN, a number without end
        raise MalformedBody(
            str(error) if isinstance(error, _NotJson) else "not JSON that can be read"
        ) from None
    if repeated:
        raise InvalidBody(
            Fault(pointer=f"#/{_escape(name)}", code="duplicate_field", detail="this field is there twice")
            for name in repeated
        )
    return value


class _NotJson(ValueError):
    pass


def _refuse(word: str) -> None:
    raise _NotJson(f"not JSON: {word} is not a number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NotJson(f"not JSON that can be read: the number {text[:20]} is too large")
    return number


async def read_form(request: Request) -> Parts:
    """The parts of a form. Raises MalformedBody, BodyTooLarge, BodyTimeout."""
    parts: list[tuple[str, str | bytes]] = []
    form = FormSplitter(request.headers["content-type"])
    async for data in request.stream():
        parts += form.feed(data)
    form.close()
    return parts


def _escape(step: str | int) -> str:
    # RFC 6901; what is no text (half a surrogate pair) cannot be sent back
    text = str(step).encode("utf-8", "replace").decode()[:200]
    return text.replace("~", "~0").replace("/", "~1")
