"""What OpenAPI says beyond what FastAPI finds by itself: bodies that routes read themselves, and errors."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.clip.schemas import BulkOptions, ClassifyRequest, EmbeddingsRequest, RankRequest
from app.collections.requests import (
    AddRequest,
    ClassifyCollectionRequest,
    CollectionRequest,
    DescribeRequest,
    ReindexRequest,
    SearchRequest,
)
from app.compat.openai_images import EditRequest, ImagesRequest
from app.http.body import LINES, TAR
from app.http.errors import Problem
from app.jobs.schemas import IndexJobRequest, JobRequest
from app.site.openapi_examples import give_examples

TIMEOUT: dict[str, Any] = {
    "parameters": [
        {
            "name": "X-Request-Timeout",
            "in": "header",
            "description": "seconds after which the answer is of no use; then 504",
            "schema": {"type": "number", "exclusiveMinimum": 0},
        }
    ]
}
"""What CLIP routes take besides their body."""
BULK: dict[str, Any] = {
    "parameters": [
        *TIMEOUT["parameters"],
        *(
            {"name": name, "in": "query", "description": "of a bulk request", "schema": schema}
            for name, schema in BulkOptions.model_json_schema()["properties"].items()
        ),
    ]
}
"""And those that take bulk requests."""
_REF = "#/components/schemas/{model}"
_BODIES: tuple[type[BaseModel], ...] = (
    ClassifyRequest,
    EmbeddingsRequest,
    RankRequest,
    JobRequest,
    ImagesRequest,
    EditRequest,
    CollectionRequest,
    AddRequest,
    DescribeRequest,
    SearchRequest,
    ClassifyCollectionRequest,
    ReindexRequest,
    IndexJobRequest,
    Problem,
)
_FORM: dict[str, dict[str, Any]] = {
    "files": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1},
    "texts": {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
    "templates": {"type": "array", "items": {"type": "string", "pattern": r"\{label\}"}, "minItems": 1},
    "text": {"type": "string", "minLength": 1},
    "encoding": {"enum": ["float", "base64"]},
    "dtype": {"enum": ["float32", "float16"]},
    "integer": {"type": "integer", "minimum": 1},
    "count": {"type": "integer", "minimum": 0},
    "boolean": {"type": "boolean"},
    "file": {"type": "string", "format": "binary"},
    "number": {"type": "number"},
}


def body(
    model: type[BaseModel],
    form: Mapping[str, str] | None = None,
    *,
    required: Sequence[str] = (),
    any_of: Sequence[str] = (),
    required_body: bool = True,
    bulk: bool = False,
    also: Sequence[type[BaseModel]] = (),
    raw: Mapping[str, type[BaseModel]] | None = None,
) -> dict[str, Any]:
    """The request body of a route that takes a model as JSON, or its fields as a form.

    Args:
        form: the kinds of the form's parts, if one is taken.
        required: the parts that must be there.
        any_of: parts of which one must be there.
        bulk: tar archives and lines of JSON are taken as well.
        also: other models that JSON may be of.
        raw: content types of bodies that are taken as they are, and what the query says of them.
    """
    choices = [{"$ref": _REF.format(model=choice.__name__)} for choice in (model, *also)]
    content: dict[str, Any] = {"application/json": {"schema": {"anyOf": choices} if also else choices[0]}}
    if form:
        properties = {name: _FORM[kind] for name, kind in form.items()}
        schema: dict[str, Any] = {"type": "object", "properties": properties, "required": [*required]}
        if any_of:
            schema["anyOf"] = [{"required": [name]} for name in any_of]
        content["multipart/form-data"] = {"schema": schema}
    if bulk:
        content[TAR] = {"schema": {"type": "string", "format": "binary"}}
        content[LINES] = {"schema": {"type": "string"}}
    parameters: list[dict[str, Any]] = []
    for kind, query in (raw or {}).items():
        content[kind] = {"schema": {"type": "string", "format": "binary"}}
        for name in query.model_fields:
            schema = query.model_json_schema()["properties"][name]
            if schema.get("type") in ("string", "boolean", "integer"):
                parameters.append({"name": name, "in": "query", "required": False, "schema": schema})
    return {
        "requestBody": {"required": required_body, "content": content},
        **({"parameters": parameters} if parameters else {}),
    }


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors that a route can answer."""
    schema = {"$ref": _REF.format(model=Problem.__name__)}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": schema}},
        }
        for status in statuses
    }


def describe(app: FastAPI) -> dict[str, Any]:
    """The whole document."""
    if not app.openapi_schema:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        _tell_problems(document)
        give_examples(document)
        _, definitions = models_json_schema([(model, "validation") for model in _BODIES], ref_template=_REF)
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(definitions["$defs"])
        for name in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(name, None)
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"key": []}]
        app.openapi_schema = document
    return app.openapi_schema


def _tell_problems(document: Mapping[str, Any]) -> None:
    """What FastAPI finds invalid is answered as a problem, and not in its own shape."""
    for operations in document["paths"].values():
        for operation in operations.values():
            told = operation["responses"]
            if "application/json" in told.get("422", {}).get("content", {}):
                told["422"] = responses(422)[422]
