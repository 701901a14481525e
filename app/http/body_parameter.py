"""Parameters of routes that are request bodies: each one parses its body and documents it.

    body: Annotated[ClassifyRequest, JsonOrForm(aliases={"image": "images"})]

FastAPI passes the annotated model to such a parameter as its dependency; a `BodyReader` of the model takes
its place.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, get_args

from fastapi import FastAPI, Request, params
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.types import Scope

from app.http.body import JSON, MULTIPART, Parts, content_type, fields_of, read_form, read_json, validate
from app.http.fields import IMAGE, TEXT
from app.http.route_docs import REF
from app.settings import ApiSettings

FILE = {"type": "string", "format": "binary"}
FILES = {"type": "array", "items": FILE, "minItems": 1}
TEXTS = {"type": "array", "items": TEXT, "minItems": 1}
_ITEM = ("image", "text")


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
        self._form = body if isinstance(body, JsonOrForm) else None
        parts = {name: part for part, name in self._form.aliases.items()} if self._form else {}
        self._fields = {parts.get(name, name): (name, schema) for name, schema in _fields(self.models[0])}
        lists = (found for found in self._fields.items() if "items" in found[1][1])
        self._lists = {part: name for part, (name, _) in lists if part != (self._form and self._form.items)}
        taken = [JSON, *body.streamed, *([MULTIPART] if self._form else [])]
        self._expected = " or ".join(dict.fromkeys(taken))

    async def __call__(self, request: Request) -> BaseModel | None:
        """The body of a request; None: the route reads it.

        Raises:
            app.http.body.UnsupportedBody, app.http.body.MalformedBody, app.http.body.InvalidBody
            app.http.body.BodyTooLarge, app.http.body.BodyTimeout: the middleware raises them while it reads.
        """
        if self.body.is_streamed(request.headers):
            return None
        if self.body.optional and not await request.body():
            return self.models[0]()
        if self._form and content_type(request.headers) == MULTIPART:
            fields = self._fields_of(self._form, await read_form(request))
            return validate(self.models[0], fields, strict=False)
        values = await read_json(request, self._expected)
        return validate(self._model_of(values), values, strict=True)

    def document(self, operation: dict[str, Any]) -> None:
        """Add the body to an operation of an OpenAPI document."""
        choices = [{"$ref": REF.format(model=model.__name__)} for model in self.models]
        content: dict[str, Any] = {JSON: {"schema": choices[0] if len(choices) == 1 else {"anyOf": choices}}}
        if self._form:
            content[MULTIPART] = {"schema": self._form_schema(self._form)}
        content |= {kind: {"schema": schema} for kind, schema in self.body.streamed.items()}
        operation["requestBody"] = {"required": not self.body.optional, "content": content}
        if self.body.query:
            operation.setdefault("parameters", []).extend(self.body.query)

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
        items = [{name: value} for name, value in parts if name in _ITEM]
        fields = fields_of([part for part in parts if part[0] not in _ITEM], self._lists)
        return fields | ({form.items: items} if items else {})

    def _form_schema(self, form: JsonOrForm) -> dict[str, Any]:
        fields = {part: found for part, found in self._fields.items() if part != form.items}
        shown = fields.keys() - form.shown.keys()
        parts: dict[str, Any] = {part: _part_schema(fields[part][1]) for part in fields if part in shown}
        required = [
            part for part, (name, _) in fields.items() if self.models[0].model_fields[name].is_required()
        ]
        document: dict[str, Any] = {"type": "object", "required": sorted(required)}
        if form.items:
            parts |= {"image": FILES, "text": TEXTS}
            document["anyOf"] = [{"required": [name]} for name in _ITEM]
        parts |= form.shown
        return {**document, "properties": {part: schema for part, schema in parts.items() if schema}}


def body_readers(app: FastAPI) -> Iterator[tuple[str, str, BodyReader]]:
    """Path, method and reader of each route that has a body."""
    for context in iter_route_contexts(app.routes):
        if isinstance(route := context.original_route, APIRoute):
            for dependency in route.dependant.dependencies:
                if isinstance(dependency.call, BodyReader):
                    yield from (
                        (route.path_format, method, dependency.call) for method in route.methods or ()
                    )


def query_parameters(model: type[BaseModel], names: Sequence[str], **more: Any) -> list[dict[str, Any]]:
    """Fields of a model as OpenAPI's parameters of the query."""
    fields = model.model_json_schema()["properties"]
    for schema in fields.values():
        if schema.get("default", ...) is None:
            del schema["default"]  # FastAPI does not write it either
    return [{"name": name, "in": "query", **more, "schema": fields[name]} for name in names]


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and JSON schemas of the fields of a model; of alternatives, the last that is not null."""
    for name, schema in model.model_json_schema()["properties"].items():
        while "anyOf" in schema:
            schema = [choice for choice in schema["anyOf"] if choice.get("type") != "null"][-1]
        yield name, schema


def _part_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a part of a form from that of a JSON field: files for base64, bounds only from below."""
    if schema.get("examples") == IMAGE["examples"]:
        return FILE
    if "items" in schema:
        return {
            "type": "array",
            "items": _part_schema(schema["items"]),
            "minItems": schema.get("minItems", 0),
        }
    if "enum" in schema:
        return {"enum": schema["enum"]}
    match schema["type"]:
        case "string":
            return {"type": "string", "pattern": schema["pattern"]} if "pattern" in schema else TEXT
        case "integer":
            return {"type": "integer", "minimum": schema["minimum"]}
        case kind:
            return {"type": kind}
