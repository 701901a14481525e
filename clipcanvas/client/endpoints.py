"""Each request of the HTTP contract as a value: how it is sent, and how its answer is read."""

import base64
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import httpx

from clipcanvas.client import results
from clipcanvas.client.transport import Call

ImageSource = Any
"""A path, the bytes of an image file, a PIL image, or the `https://` or `data:` URL of one."""

BULK_TIMEOUT_S = 600.0
MAX_WAIT_S = 60  # the longest `Prefer: wait` that the service grants


def classify(
    images: ImageSource | Sequence[ImageSource],
    labels: Sequence[str],
    *,
    templates: Sequence[str] | None = None,
    top_k: int | None = None,
    model: str | None = None,
) -> Call[results.Classifications]:
    """Classify images by how well each label fits."""
    several = images if isinstance(images, list | tuple) else [images]
    body = {"images": [encode_image(image) for image in several], "labels": list(labels)}
    body |= given(templates=templates and list(templates), top_k=top_k, model=model)
    return Call("POST", "/v1/classify", reader(results.Classifications), json=body)


def embed(
    inputs: str | ImageSource | Sequence[str | ImageSource],
    *,
    model: str | None = None,
    dimensions: int | None = None,
) -> Call[results.Embeddings]:
    """Turn texts and images into vectors of one space."""
    several = inputs if isinstance(inputs, list | tuple) else [inputs]
    body = {"input": [text_or_image(item) for item in several], "encoding_format": "float"}
    return Call(
        "POST",
        "/v1/embeddings",
        reader(results.Embeddings),
        json=body | given(model=model, dimensions=dimensions),
    )


def embed_bulk(
    inputs: Sequence[str | ImageSource], *, model: str | None = None, dimensions: int | None = None
) -> Call[results.BulkEmbeddings]:
    """`embed` for thousands of texts and images; one that is refused costs nobody else's vector."""
    return Call(
        "POST",
        "/v1/embeddings",
        reader(results.BulkEmbeddings),
        query={"on_error": "skip"} | given(model=model, dimensions=dimensions),
        content="\n".join(json.dumps(text_or_image(item)) for item in inputs).encode(),
        headers={"Content-Type": "application/x-ndjson"},
        read_timeout_s=BULK_TIMEOUT_S,
    )


def rank(
    query: str | ImageSource,
    candidates: Sequence[str | ImageSource],
    *,
    top_k: int | None = None,
    model: str | None = None,
) -> Call[results.Ranking]:
    """Order candidates by how well they fit the query; a `str` is a text, everything else an image."""
    body = {"query": text_or_image(query), "candidates": [text_or_image(item) for item in candidates]}
    return Call("POST", "/v1/rank", reader(results.Ranking), json=body | given(top_k=top_k, model=model))


class JobOptions(TypedDict, total=False):
    """What `Client.create_job` takes beside the prompt; see there."""

    prompts: Sequence[results.Prompt]
    generator: str | None
    width: int | None
    height: int | None
    steps: int | None
    seed: int | str | None
    num_images: int | None
    quality: str | None
    aspect: str | None
    compat: str | None
    options: Mapping[str, Any] | None
    save: Mapping[str, Any] | None
    priority: str | None
    start_timeout_s: int | None
    run_timeout_s: int | None
    webhook: Mapping[str, Any] | None
    metadata: Mapping[str, str] | None
    idempotency_key: str | None


def create_job(prompt: str | Sequence[results.Prompt], **request: Unpack[JobOptions]) -> Call[results.Job]:
    """Submit a drawing; the result is the job that draws it."""
    line, listed = (prompt, []) if isinstance(prompt, str) else (None, [*prompt])
    fields: dict[str, Any] = dict(request)
    listed += fields.pop("prompts", ())
    key = fields.pop("idempotency_key", None) or uuid.uuid4().hex
    options = fields.pop("options", None)
    body = given(
        prompt=line,
        prompts=[_prompt(item) for item in listed] or None,
        options=options and {name: _option(value) for name, value in options.items()},
        **{name: dict(value) if isinstance(value, Mapping) else value for name, value in fields.items()},
    )
    return Call("POST", "/v1/jobs", reader(results.Job), json=body, headers={"Idempotency-Key": key})


def job(job_id: str, *, wait_s: float = 0) -> Call[results.Job]:
    """A job as soon as it is final, or as it is after `wait_s` seconds (at most 60)."""
    wait = min(math.ceil(wait_s), MAX_WAIT_S)
    return Call(
        "GET",
        _job_path(job_id),
        reader(results.Job),
        headers={"Prefer": f"wait={wait}"} if wait > 0 else {},
        read_timeout_s=wait + 30,
    )


def jobs(*, status: str | None = None, limit: int = 20, after: str | None = None) -> Call[results.JobPage]:
    """A page of jobs, newest first; `after` is the last id of the page before."""
    query = {"limit": limit} | given(status=status, after=after)
    return Call("GET", "/v1/jobs", reader(results.JobPage), query=query)


def cancel(job_id: str) -> Call[results.Job]:
    """Stop a job: a queued one at once, a running one within a step."""
    return Call("POST", f"{_job_path(job_id)}/cancel", reader(results.Job))


def delete(job_id: str) -> Call[None]:
    """Forget a final job and its files."""
    return Call("DELETE", _job_path(job_id), lambda response: None)


def output(job_id: str, name: str) -> Call[bytes]:
    """The bytes of a file that a job made, such as `image-0.png`."""
    path = f"{_job_path(job_id)}/outputs/{quote(name, safe='')}"
    return Call("GET", path, lambda response: response.content)


def models() -> Call[tuple[results.ModelCard, ...]]:
    """The CLIP models that the service offers."""
    return Call("GET", "/v1/models", _list_reader(results.ModelCard))


def generators() -> Call[tuple[results.GeneratorCard, ...]]:
    """The ways of drawing that the service offers, with their options."""
    return Call("GET", "/v1/generators", _list_reader(results.GeneratorCard))


def queue() -> Call[results.QueueState]:
    """How many jobs wait and run, and who works."""
    return Call("GET", "/v1/queue", reader(results.QueueState))


def ready() -> Call[results.Readiness]:
    """Whether the service is ready, and what it still waits for."""
    return Call("GET", "/readyz", _readiness, read_timeout_s=10, also_answers=frozenset({503}))


def events(job_id: str) -> Call[None]:
    """The stream of a job's events; `clipcanvas.client.event_stream` reads it."""
    return Call(
        "GET",
        f"{_job_path(job_id)}/events",
        lambda response: None,
        headers={"Accept": "text/event-stream"},
        read_timeout_s=45,  # three of the service's pings
    )


def encode_image(image: ImageSource) -> str:
    """An image as the contract's string: base64, or a URL as it is.

    Raises:
        TypeError: it is none of the kinds of image.
        OSError: its file cannot be read.
    """
    if isinstance(image, str) and image.startswith(("data:", "https://", "http://")):
        return image
    if isinstance(image, str | os.PathLike):
        return base64.b64encode(Path(image).read_bytes()).decode()
    if isinstance(image, bytes | bytearray | memoryview):
        return base64.b64encode(image).decode()
    if hasattr(image, "save"):  # a PIL image, without importing PIL
        buffer = BytesIO()
        image.save(buffer, format="PNG")
        return base64.b64encode(buffer.getvalue()).decode()
    raise TypeError(f"an image is a path, bytes, a PIL image or a URL, not {type(image).__name__}")


Answer = TypeVar("Answer", bound=results._Answer)


def reader(kind: type[Answer]) -> Callable[[httpx.Response], Answer]:
    return lambda response: kind.model_validate_json(response.content)


def _list_reader(kind: type[Answer]) -> Callable[[httpx.Response], tuple[Answer, ...]]:
    def read(response: httpx.Response) -> tuple[Answer, ...]:
        body = response.json()
        if not isinstance(body, dict) or not isinstance(body.get("data"), list):
            raise ValueError("expected an object with a list `data`")
        return tuple(kind.model_validate(item) for item in body["data"])

    return read


def _readiness(response: httpx.Response) -> results.Readiness:
    body = response.json()
    parts = body.get("parts", body.get("checks")) if isinstance(body, dict) else None
    if not isinstance(parts, dict):
        raise ValueError("expected an object with `parts`")
    return results.Readiness(
        ready=response.status_code == 200, parts={name: str(state) for name, state in parts.items()}
    )


def _prompt(prompt: results.Prompt) -> dict[str, Any]:
    fields = prompt.model_dump(mode="json", exclude_defaults=True, exclude={"image", "target"})
    images = {"image": prompt.image, "target": prompt.target}
    return fields | {kind: encode_image(image) for kind, image in images.items() if image is not None}


def _option(value: Any) -> Any:
    is_image = isinstance(value, os.PathLike | bytes) or hasattr(value, "save")
    return encode_image(value) if is_image else value


def text_or_image(item: str | ImageSource) -> dict[str, str]:
    return {"text": item} if isinstance(item, str) else {"image": encode_image(item)}


def _job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
