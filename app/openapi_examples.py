"""One request of each operation that takes something, as OpenAPI shows it; bodies with files aside."""

from collections.abc import Mapping
from typing import Any

from app.schemas import IMAGE

_PICTURE = IMAGE["examples"][0]
_JOB = "job_06h0keib2lq6d6dsts0s0u93eo"
_BODIES: Mapping[str, Any] = {
    "classify": {"images": [_PICTURE], "labels": ["cat", "dog", "rocket"], "top_k": 2},
    "create_embeddings": {"model": "demo-photo", "input": ["a photo of a cat.", {"image": _PICTURE}]},
    "rank": {"query": "an animal", "candidates": ["a cat", "a car", "a cup of coffee"]},
    "create_collection": {"thumbnails": True},
    "add_images": {"images": [{"image": _PICTURE, "id": "cats/7.jpg", "metadata": {"kind": "cat"}}]},
    "describe_image": {"metadata": {"kind": "cat", "year": 1999}},
    "search_images": {
        "query": [{"text": "a cat"}, {"text": "people", "weight": -0.5}],
        "top_k": 5,
        "filter": ".year > 1980",
    },
    "classify_images": {"labels": ["cat", "dog"], "min_probability": 0.5},
    "reindex_collection": {"source": "pets", "limit": 64},
    "create_job": {"prompt": "a fox in a forest | blurry:-0.3", "seed": 7, "quality": "draft"},
    "generate_images": {"prompt": "a red heart", "quality": "low"},
    "edit_image": {"prompt": "a red heart", "model": "pixels", "image": _PICTURE},
    "vectorize": {"texts": ["a photo of a cat."], "images": [_PICTURE]},
}
_PARAMETERS = {
    "job_id": _JOB,
    "delivery_id": f"{_JOB}_2",
    "image_id": "cats/7.jpg",
    "Idempotency-Key": "order-17",
    "X-Request-Timeout": 2.5,
    "filter": ".year > 1980",
}
_NAMES = {  # what a path's {name} names
    "/v1/collections": "pets",
    "/v1/models": "demo-photo",
    "/v1/jobs": "image-0.png",
}


def give_examples(document: Mapping[str, Any]) -> None:
    """Put them into an OpenAPI document."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if body := _BODIES.get(operation["operationId"]):
                operation["requestBody"]["content"]["application/json"]["example"] = body
            for parameter in operation.get("parameters", []):
                name = parameter["name"]
                example = (
                    _NAMES.get("/".join(path.split("/")[:3])) if name == "name" else _PARAMETERS.get(name)
                )
                if example is not None:
                    parameter["example"] = example
