"""The OpenAPI document: what FastAPI finds out, the bodies that routes parse, errors, and examples."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.http.errors import Problem
from app.http.route_docs import REF, body_readers, document_body, responses
from app.site.openapi_examples import give_examples


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
        models: list[type[BaseModel]] = [*_document_bodies(app, document), Problem]
        _document_problems(document)
        give_examples(document)
        _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=REF)
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(definitions["$defs"])
        for name in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(name, None)
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"key": []}]
        app.openapi_schema = document
    return app.openapi_schema


def _document_bodies(app: FastAPI, document: Mapping[str, Any]) -> list[type[BaseModel]]:
    """Add the bodies of all routes; the result is their models."""
    models: dict[type[BaseModel], None] = {}
    for path, method, reader in body_readers(app):
        document_body(reader, document["paths"][path][method.lower()])
        models |= dict.fromkeys(reader.models)
    return list(models)


def _document_problems(document: Mapping[str, Any]) -> None:
    """Describe invalid parameters as a problem, which is how they are answered, and not in FastAPI's form."""
    for operations in document["paths"].values():
        for operation in operations.values():
            described = operation["responses"]
            if "application/json" in described.get("422", {}).get("content", {}):
                described["422"] = responses(422)[422]
