"""What OpenAPI shows as examples: a request of each operation that takes something, its answers, and errors.

The answers came from the service: `tests/e2e/test_openapi_examples.py` writes them, and compares.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.clip.bulk_parsers import LINES
from app.http import errors
from app.schemas import Fault

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
_PROBLEMS = {  # what errors say, by their codes
    "malformed_body": "not JSON: Expecting value, at character 12",
    "malformed_header": "Last-Event-ID, or after, is the id of an event, such as 1760000000000-0",
    "invalid_api_key": "expected the header Authorization: Bearer <key>",
    "missing_scope": "this API key lacks the scope 'clip'",
    "model_not_found": "no model 'ViT-B-32' is served; there are demo-photo",
    "job_not_found": "there is no job of that id",
    "collection_not_found": "there is no collection 'pets'",
    "body_timeout": "nothing more of the body came for 30 seconds",
    "model_mismatch": "the collection 'pets' is of demo-photo, not of ViT-B-32",
    "collection_exists": "the collection 'pets' is there, with model demo-photo",
    "job_final": "the job is succeeded already",
    "job_not_final": "the job is running; cancel it first",
    "job_canceled": f"the job is canceled ({JOB})",
    "body_too_large": "the body is longer than 33554432 bytes",
    "unsupported_media_type": "the content type is text/plain; expected application/json",
    "invalid_request": "#/labels: this field is missing",
    "too_many_jobs": "100 jobs of this key wait already",
    "too_many_streams": "50 event streams are open already; no caller may have more",
    "vectors_unsupported": "collections need vector sets (VADD, VSIM): Redis 8 or newer; the server has none",
    "queue_unavailable": "the job queue cannot be reached",
    "vectors_unavailable": "the server of the collections cannot be reached",
    "model_loading": "demo-photo is loading",
    "deadline_exceeded": "the 2.5 s of X-Request-Timeout are over",
    "vectors_full": "90% of the memory for collections is used; at most 90% may be",
}
_FAULTS = {"invalid_request": [Fault(pointer="#/labels", code="missing", detail="this field is missing")]}
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
        [kind] = {answer for answer in errors.ANSWERS.values() if answer.code == code}
        place = re.sub(r"{(\w+)}", lambda found: str(_example(found[1], path)), path)
        scope = {"path": place, "state": {"request_id": "3f9c2b7a"}}
        body = errors.problem(scope, kind, _PROBLEMS[code], _FAULTS.get(code, ())).body
        problems[code] = {"summary": kind.title, "value": json.loads(bytes(body))}
    told["examples"] = {code: {"$ref": f"#/components/examples/{code}"}}


def _first(known: Mapping[str, str], path: str) -> str | None:
    return next((found for beginning, found in known.items() if path.startswith(beginning)), None)
