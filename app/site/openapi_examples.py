"""What OpenAPI shows as examples: a request of each operation that takes something, its answers, and errors.

The answers came from the service: `tests/e2e/test_openapi_examples.py` writes them, and compares.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.http import errors
from app.http.body import LINES, InvalidBody

ANSWERS = Path(__file__).with_name("openapi_answers.json")
JOB = "job_06h0keib2lq6d6dsts0s0u93eo"
_CAT = (  # 48 x 48 pixels of examples/cat.jpg
    "data:image/webp;base64,UklGRnIBAABXRUJQVlA4IGYBAABQCQCdASowADAAPuFcqk2opSQiMdZt+RAcCUAVPXWVYmaske07I"
    "7T2wZ6k5KVnYwGHrdmFhi5+yZd5dQ57hdPqwX4QYW+zNiOb7ZaMdoVG4i2HyADf3+Q/mfSzQSwTzVqb4yewNE5AuBJ3nyLX7XMYs"
    "PD5PdJ+p/M1214RoP7XB41jjw3921tkwzvj3v8lOjYHXXFGcB6/HrYsbQlQxhKGWKN5a6i3qz9xRYjGSZOeXdN1fHDpYplO6ff5d"
    "2L4U/nBdwYolb0NNNN/gJwVoH33YDZt4J0CdJ1KWZTkTZ6DVivqTW2+INxMNUn3KhWYTMnx1Cnf5ISwRsXJpRJ7iW6ABCDCrjibo"
    "fOm8tuZZKixCmG1m/AkCjP41dpa+V5HQJfiSyhbCqDbPXlIKgOt9qbUufRqZfD++bDveB1QAE09OiMTFlMk04NUraZx63ocVOgVY"
    "HpBZ5GZMxF9FLIkldtY9ofQIAAA"
)
_BODIES: Mapping[str, Any] = {  # in JSON
    "classify": {"images": [_CAT], "labels": ["cat", "dog", "rocket"], "top_k": 2},
    "create_embeddings": {"model": "demo-photo", "input": ["a photo of a cat.", {"image": _CAT}]},
    "rank": {"query": "an animal", "candidates": ["a cat", "a car", "a cup of coffee"]},
    "create_collection": {"thumbnails": True},
    "add_images": {
        "images": [{"image": _CAT, "id": "cats/7.jpg", "metadata": {"kind": "cat", "year": 1999}}]
    },
    "describe_image": {"metadata": {"kind": "cat", "year": 2001}},
    "search_images": {
        "query": [{"text": "a cat"}, {"text": "people", "weight": -0.5}],
        "top_k": 5,
        "filter": ".year > 1980",
    },
    "classify_images": {"labels": ["cat", "dog"], "min_probability": 0.5},
    "reindex_collection": {"source": "pets", "limit": 64},
    "create_job": {"prompt": "a fox in a forest | blurry:-0.3", "seed": 7, "quality": "draft"},
    "generate_images": {"prompt": "a red heart", "quality": "low", "seed": 7},
    "edit_image": {"prompt": "a red heart", "model": "pixels", "seed": 7, "image": _CAT},
    "vectorize": {"texts": ["a photo of a cat."], "images": [_CAT]},
    "predict": {"entries": {"clip": {"textual": {"modelName": "demo-photo"}}}, "text": "a photo of a cat."},
}
_FORMS: Mapping[str, Any] = {  # files by their names
    "classify": {"image": ["cat.jpg"], "labels": ["cat", "dog", "rocket"], "top_k": 2},
    "create_embeddings": {"image": ["cat.jpg"], "text": ["a photo of a cat."]},
    "add_images": {"image": ["cat.jpg"], "id": ["cats/8.jpg"], "metadata": ['{"year": 2003}']},
    "search_images": {"text": ["a cat"], "top_k": 5},
    "edit_image": {"prompt": "a red heart", "model": "pixels", "image": "cat.jpg", "mask": "mask.png"},
    "predict": {"entries": '{"clip": {"visual": {"modelName": "demo-photo"}}}', "image": "cat.jpg"},
}
_LINES = {"create_embeddings": '{"text": "a photo of a cat."}\n{"text": "a photo of a dog."}\n'}
_PARAMETERS = {
    "job_id": JOB,
    "delivery_id": f"{JOB.replace('job', 'msg')}_41",
    "image_id": "cats/7.jpg",
    "Idempotency-Key": "order-17",
    "X-Request-Timeout": 2.5,
    "filter": ".year > 1980",
}
_NAMES = {  # what {name} is in a path that begins so, the first that does
    "/v1/collections/{name}/reindex": "pets-2",
    "/v1/collections": "pets",
    "/v1/models": "demo-photo",
    "/v1/jobs": "image-0.png",
}
_CODES: Mapping[str, Mapping[str, str]] = {  # of a status: by how the path begins, the first that does
    "400": {"/v1/jobs/": "malformed_header", "/": "malformed_body"},
    "401": {"/": "invalid_api_key"},
    "403": {"/": "missing_scope"},
    "404": {"/v1/jobs": "job_not_found", "/v1/collections": "collection_not_found", "/": "model_not_found"},
    "408": {"/": "body_timeout"},
    "409": {
        "/v1/collections/{name}/": "model_mismatch",
        "/v1/collections": "collection_exists",
        "/v1/jobs/{job_id}/cancel": "job_final",
        "/v1/jobs": "job_not_final",
        "/v1/images": "job_canceled",
    },
    "413": {"/": "body_too_large"},
    "415": {"/": "unsupported_media_type"},
    "422": {"/": "invalid_request"},
    "429": {"/v1/jobs/": "too_many_streams", "/": "too_many_jobs"},
    "501": {"/": "vectors_unsupported"},
    "503": {
        "/v1/collections": "vectors_unavailable",
        **dict.fromkeys(("/v1/jobs", "/v1/images", "/v1/queue"), "queue_unavailable"),
        "/": "model_loading",
    },
    "504": {"/": "deadline_exceeded"},
    "507": {"/": "vectors_full"},
}


def give_examples(document: dict[str, Any]) -> None:
    """Put them into an OpenAPI document."""
    answers = json.loads(ANSWERS.read_text())
    problems: dict[str, Any] = {}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _give_request(operation)
            for parameter in operation.get("parameters", []):
                _give_parameter(path, parameter)
            for status, answer in operation["responses"].items():
                _give_answer(answer, answers.get(operation["operationId"], {}).get(status, {}))
                _give_problem(path, status, answer, problems)
    document.setdefault("components", {})["examples"] = problems


def _give_request(operation: Mapping[str, Any]) -> None:
    content = operation.get("requestBody", {}).get("content", {})
    for kind, known in (("application/json", _BODIES), ("multipart/form-data", _FORMS), (LINES, _LINES)):
        if kind in content and (body := known.get(operation["operationId"])) is not None:
            content[kind]["example"] = body


def _give_parameter(path: str, parameter: dict[str, Any]) -> None:
    if (example := _example(parameter["name"], path)) is not None:
        parameter["example"] = example


def _example(name: str, path: str) -> Any:
    return _first(_NAMES, path) if name == "name" else _PARAMETERS.get(name)


def _give_answer(answer: Mapping[str, Any], examples: Mapping[str, Any]) -> None:
    for kind, example in examples.items():
        answer["content"][kind]["example"] = example


def _give_problem(path: str, status: str, answer: Mapping[str, Any], problems: dict[str, Any]) -> None:
    told = answer.get("content", {}).get("application/problem+json")
    if told is None:
        return
    code = str(_first(_CODES[status], path))
    if code not in problems:
        kind = errors.kinds_by_code()[code]
        place = re.sub(r"{(\w+)}", lambda found: str(_example(found[1], path)), path)
        scope = {"path": place, "state": {"request_id": "3f9c2b7a"}}
        error: Exception = InvalidBody.at("#/labels", "missing", "this field is missing")
        if kind is not InvalidBody:
            error = kind((kind.__doc__ or "").partition("\n")[0])
        value = json.loads(bytes(errors.problem_of(scope, error).body))
        problems[code] = {"summary": value["title"], "value": value}
    told["examples"] = {code: {"$ref": f"#/components/examples/{code}"}}


def _first(known: Mapping[str, str], path: str) -> str | None:
    return next((found for beginning, found in known.items() if path.startswith(beginning)), None)
