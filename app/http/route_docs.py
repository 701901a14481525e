"""What routes say about themselves in OpenAPI beyond what FastAPI finds out."""

from http import HTTPStatus
from typing import Any

from app.http.errors import Problem

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
