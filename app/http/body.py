"""Bodies: JSON or a form in, a checked model out, or every fault with its place; answers as JSON.

    body: Annotated[ClassifyRequest, JsonOrForm(aliases={"image": "images"})]

is how a route asks for its body. FastAPI passes the annotated model to such a parameter as its dependency; a
`BodyReader` of the model takes its place.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType, NoneType
from typing import Any, Self, TypeVar, get_args

import orjson
from fastapi import Request, Response, params
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.types import Scope

from app.http.errors import INVALID, Answer, Fault, HttpProblem, UnsupportedBody
from app.http.multipart import FormSplitter, MalformedBody
from app.settings import ApiSettings

Model = TypeVar("Model", bound=BaseModel)
Parts = Sequence[tuple[str, str | bytes]]  # of a form, in order: names and values; bytes are files

JSON = "application/json"
MULTIPART = "multipart/form-data"
TAR = "application/x-tar"
LINES = "application/x-ndjson"
NPY = "application/x-npy"
ITEM_PARTS = ("image", "text")
"""Parts of a form that are the items of a list."""
_MAX_FAULTS = 100
_WORDS = {  # in place of pydantic's, where those speak of Python
    "extra_forbidden": "this field is not known",
    "missing": "this field is missing",
    "model_type": "this must be an object",
    "dict_type": "this must be an object",
    "list_type": "this must be a list",
    "string_unicode": "this is not Unicode text",
}


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


@dataclass(frozen=True, kw_only=True)
class JsonBody(params.Depends):
    """A body as JSON. Where several models are annotated, the field `type` of the body chooses one.

    Args:
        optional: an empty body stands for the model's defaults.
        is_streamed: whether the route reads the body of a request itself; its parameter is None then.
        streamed: the content types of such bodies, and their schemas.
        max_streamed_bytes: how long such bodies may be.
        check: called before another body is read; may raise an HttpProblem.
        query: the query parameters that go with such bodies, as OpenAPI has them.
    """

    optional: bool = False
    is_streamed: Callable[[Headers], bool] = lambda headers: False
    streamed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    max_streamed_bytes: Callable[[ApiSettings], int] = lambda settings: settings.max_body_bytes
    check: Callable[[Scope], None] = lambda scope: None
    query: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dependency is not None and not isinstance(self.dependency, BodyReader):
            object.__setattr__(self, "dependency", BodyReader(self.dependency, self))


@dataclass(frozen=True, kw_only=True)
class JsonOrForm(JsonBody):
    """A body as JSON, or as a form whose parts are the fields of the model.

    A part may be repeated where its field is a list.

    Args:
        aliases: names of parts, and of their fields, where those differ.
        items: the name of a list of texts and images: the parts `text` and `image`, in their order.
        from_form: parts -> fields, in place of the rules above.
        shown: what OpenAPI says of parts other than the model does; None: nothing.
    """

    aliases: Mapping[str, str] = field(default_factory=dict)
    items: str | None = None
    from_form: Callable[[Parts], dict[str, Any]] | None = None
    shown: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)


class BodyReader:
    """Reads the body of a request into a model, and says in OpenAPI how the body looks."""

    def __init__(self, annotation: Any, body: JsonBody) -> None:
        kinds = get_args(annotation) or (annotation,)
        self.models: tuple[type[BaseModel], ...] = tuple(kind for kind in kinds if kind is not NoneType)
        self.body = body
        self.form = body if isinstance(body, JsonOrForm) else None
        names = {name: part for part, name in self.form.aliases.items()} if self.form else {}
        self.parts = {names.get(name, name): (name, schema) for name, schema in model_fields(self.models[0])}
        lists = (found for found in self.parts.items() if "items" in found[1][1])
        self._lists = {part: name for part, (name, _) in lists if part != (self.form and self.form.items)}
        taken = [JSON, *body.streamed, *([MULTIPART] if self.form else [])]
        self._expected = " or ".join(dict.fromkeys(taken))

    async def __call__(self, request: Request) -> BaseModel | None:
        """The body of a request; None: the route reads it.

        Raises:
            app.http.errors.UnsupportedBody, app.http.body.MalformedBody, app.http.body.InvalidBody
            app.http.errors.BodyTooLarge, app.http.errors.BodyTimeout: from the middleware.
        """
        if self.body.is_streamed(request.headers):
            return None
        if self.body.optional and not await request.body():
            return self.models[0]()
        if self.form and content_type(request.headers) == MULTIPART:
            fields = self._fields_of(self.form, await read_form(request))
            return validate(self.models[0], fields, strict=False)
        values = await read_json(request, self._expected)
        return validate(self._model_of(values), values, strict=True)

    def _model_of(self, values: Any) -> type[BaseModel]:
        kind = values.get("type") if isinstance(values, dict) else None
        for model in self.models[1:]:
            if kind in get_args(model.model_fields["type"].annotation):
                return model
        return self.models[0]

    def _fields_of(self, form: JsonOrForm, parts: Parts) -> dict[str, Any]:
        if form.from_form:
            return form.from_form(parts)
        if form.items is None:
            return fields_of(parts, self._lists)
        items = [{name: value} for name, value in parts if name in ITEM_PARTS]
        fields = fields_of([part for part in parts if part[0] not in ITEM_PARTS], self._lists)
        return fields | ({form.items: items} if items else {})


def model_fields(model: type[BaseModel]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and JSON schemas of the fields of a model; of alternatives, the last that is not null."""
    for name, schema in model.model_json_schema()["properties"].items():
        while "anyOf" in schema:
            schema = [choice for choice in schema["anyOf"] if choice.get("type") != "null"][-1]
        yield name, schema


def json_answer(answer: BaseModel, headers: Mapping[str, str]) -> Response:
    """The answer as JSON. Its numbers may be NumPy's: a float32 is written with as few digits as identify it.

    Fields that are None because they were not set are left out.
    """
    content = orjson.dumps(answer, _set_fields, orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, headers=dict(headers), media_type=JSON)


def _set_fields(model: BaseModel) -> dict[str, Any]:
    given = model.model_fields_set
    return {name: value for name, value in model.__dict__.items() if value is not None or name in given}


async def read_json(request: Request, expected: str) -> Any:
    """The body of a request, parsed.

    Args:
        expected: the content types that the route accepts.

    Raises:
        UnsupportedBody, MalformedBody, BodyTooLarge, BodyTimeout
    """
    kind = content_type(request.headers)
    body = await request.body()
    if not body:
        raise MalformedBody(f"the body is empty; expected {expected}")
    if kind != JSON and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedBody(f"the content type is {kind or 'missing'}; expected {expected}")
    return parse_json(body)


def content_type(headers: Headers) -> str:
    """The content type without parameters; empty if there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def fields_of(parts: Parts, lists: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """The parts of a form as the fields of a model.

    Args:
        lists: the parts that may be repeated, with their names in the model.

    Raises:
        InvalidBody: another part is repeated.
    """
    fields: dict[str, Any] = {}
    for name, value in parts:
        if name in lists:
            fields.setdefault(lists[name], []).append(value)
        elif name in fields:
            pointer = f"#/{_escape(name)}"
            raise InvalidBody.at(pointer, "duplicate_field", "this field is repeated")
        else:
            fields[name] = value
    return fields


def validate(model: type[Model], values: Any, *, strict: bool, at: str = "#") -> Model:
    """The model with these values.

    Args:
        strict: text is no number; forms cannot be strict.
        at: the place of the values in the request.

    Raises:
        InvalidBody: with all faults.
    """
    try:
        return model.model_validate(values, strict=strict)
    except ValidationError as error:
        raise InvalidBody(faults_of(error, at)) from None


def faults_of(error: ValidationError, at: str = "#") -> list[Fault]:
    """The errors of pydantic, with pointers below `at`."""
    return [
        Fault(
            pointer="/".join([at, *(_escape(step) for step in item["loc"])]),
            code=item["type"],
            detail=_WORDS.get(item["type"], item["msg"].removeprefix("Value error, ")),
        )
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def parse_json(body: bytes) -> Any:
    """JSON as in RFC 8259: without NaN and infinity, and without repeated names in one object.

    Raises:
        MalformedBody: the body is not such JSON.
        InvalidBody: a name is repeated.
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
            str(error) if isinstance(error, _NotJson) else "the JSON cannot be parsed"
        ) from None
    if repeated:
        raise InvalidBody(
            Fault(pointer=f"#/{_escape(name)}", code="duplicate_field", detail="this field is repeated")
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
        raise _NotJson(f"the JSON cannot be parsed: the number {text[:20]} is too large")
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
    # RFC 6901; half a surrogate pair cannot be sent back
    text = str(step).encode("utf-8", "replace").decode()[:200]
    return text.replace("~", "~0").replace("/", "~1")
