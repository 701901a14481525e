"""What OpenAPI says about routes beyond what FastAPI finds out: bodies, errors, a header."""

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel

from app.http.body import ITEM_PARTS, JSON, MULTIPART, BodyReader, JsonOrForm
from app.http.errors import Problem
from app.http.fields import TEXT
from app.http.image_input import IMAGE

FILE = {"type": "string", "format": "binary"}
FILES = {"type": "array", "items": FILE, "minItems": 1}
TEXTS = {"type": "array", "items": TEXT, "minItems": 1}
REF = "#/components/schemas/{model}"
TIMEOUT: dict[str, Any] = {
    "parameters": [
        {
            "name": "X-Request-Timeout",
            "in": "header",
            "description": "seconds after which the client does not need the answer; then 504",
            "schema": {"type": "number", "exclusiveMinimum": 0},
        }
    ]
}
"""`openapi_extra` of routes that take this header."""


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors that a route can answer."""
    schema = {"$ref": REF.format(model=Problem.__name__)}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": schema}},
        }
        for status in statuses
    }


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


def document_body(reader: BodyReader, operation: dict[str, Any]) -> None:
    """Add a body to an operation of an OpenAPI document."""
    choices = [{"$ref": REF.format(model=model.__name__)} for model in reader.models]
    content: dict[str, Any] = {JSON: {"schema": choices[0] if len(choices) == 1 else {"anyOf": choices}}}
    if reader.form:
        content[MULTIPART] = {"schema": _form_schema(reader, reader.form)}
    content |= {kind: {"schema": schema} for kind, schema in reader.body.streamed.items()}
    operation["requestBody"] = {"required": not reader.body.optional, "content": content}
    if reader.body.query:
        operation.setdefault("parameters", []).extend(reader.body.query)


def _form_schema(reader: BodyReader, form: JsonOrForm) -> dict[str, Any]:
    fields = {part: found for part, found in reader.parts.items() if part != form.items}
    shown = fields.keys() - form.shown.keys()
    parts: dict[str, Any] = {part: _part_schema(fields[part][1]) for part in fields if part in shown}
    required = [
        part for part, (name, _) in fields.items() if reader.models[0].model_fields[name].is_required()
    ]
    document: dict[str, Any] = {"type": "object", "required": sorted(required)}
    if form.items:
        parts |= {"image": FILES, "text": TEXTS}
        document["anyOf"] = [{"required": [name]} for name in ITEM_PARTS]
    parts |= form.shown
    return {**document, "properties": {part: schema for part, schema in parts.items() if schema}}


def _part_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a part of a form from that of a JSON field: files for base64, bounds only from below."""
    if schema.get("examples") == IMAGE["examples"]:
        return FILE
    if "items" in schema:
        bound = {"minItems": schema["minItems"]} if "minItems" in schema else {}
        return {"type": "array", "items": _part_schema(schema["items"]), **bound}
    if "enum" in schema:
        return {"enum": schema["enum"]}
    if schema["type"] == "string" and "pattern" not in schema:
        return TEXT
    kept = {"string": ("type", "pattern"), "integer": ("type", "minimum")}
    return {key: schema[key] for key in kept.get(schema["type"], ("type",)) if key in schema}
