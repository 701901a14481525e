"""Each request of the HTTP contract as a value: how it is sent, and how its answer is read."""

import base64
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx

from clipcanvas.client import results
from clipcanvas.client.errors import foreign, problem
from clipcanvas.client.uploads import pieces

T = TypeVar("T")

ImageSource = Any
"""A path, the bytes of an image file, a PIL image, or the `https://` or `data:` URL of one."""

BULK_TIMEOUT_S = 600.0
READ_TIMEOUT_S = 120.0  # a first request may wait for a model to load
MAX_WAIT_S = 60  # the longest `Prefer: wait` that the service grants


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and the reader of its answer. Sending it twice does no more than sending it once."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    query: dict[str, str | int] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None  # is the body, in place of `json`
    file: Path | None = None  # is the body, as it is
    headers: dict[str, str] = field(default_factory=dict)
    read_timeout_s: float = READ_TIMEOUT_S
    also_answers: frozenset[int] = frozenset()  # statuses beside 2xx that are answers, not problems

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request that this client would send."""
        return http.build_request(
            self.method,
            self.path,
            params=self.query or None,
            json=self.json,
            content=pieces(self.file, http) if self.file else self.content,
            headers=self.headers,
            timeout=httpx.Timeout(self.read_timeout_s, connect=10),
        )

    def result(self, response: httpx.Response) -> T:
        """What the answer says.

        Raises:
            ApiError: it is a problem, or no answer of a Clipcanvas service.
        """
        if not response.is_success and response.status_code not in self.also_answers:
            raise problem(response)
        try:
            return self.read(response)
        except ValueError as error:  # pydantic's and json's errors are ValueErrors
            raise foreign(response) from error


def classify(
    images: ImageSource | Sequence[ImageSource],
    labels: Sequence[str],
    *,
    templates: Sequence[str] | None = None,
    top_k: int | None = None,
    model: str | None = None,
) -> Call[results.Classifications]:
    """Say which of the labels fits each image.

    Args:
        images: one or several; each a path, the bytes of a file, a PIL image or a URL.
        templates: sentences with `{label}` in them; without, the model's own.
        top_k: how many labels to answer for each image; without, all.
    """
    several = images if isinstance(images, list | tuple) else [images]
    body = {"images": [encode_image(image) for image in several], "labels": list(labels)}
    body |= _given(templates=templates and list(templates), top_k=top_k, model=model)
    return Call("POST", "/v1/classify", _reader(results.Classifications), json=body)


def embed(
    inputs: str | ImageSource | Sequence[str | ImageSource],
    *,
    model: str | None = None,
    dimensions: int | None = None,
) -> Call[results.Embeddings]:
    """Turn texts and images into vectors of one space.

    Args:
        inputs: one or several; a `str` is a text, a `Path`, bytes or a PIL image is an image.
        dimensions: keep so many numbers of each vector; the rest is cut and the length made one again.
    """
    several = inputs if isinstance(inputs, list | tuple) else [inputs]
    body = {"input": [_text_or_image(item) for item in several], "encoding_format": "float"}
    return Call(
        "POST",
        "/v1/embeddings",
        _reader(results.Embeddings),
        json=body | _given(model=model, dimensions=dimensions),
    )


def embed_bulk(
    inputs: Sequence[str | ImageSource], *, model: str | None = None, dimensions: int | None = None
) -> Call[results.BulkEmbeddings]:
    """`embed` for thousands of texts and images; one that is refused costs nobody else's vector."""
    return Call(
        "POST",
        "/v1/embeddings",
        _reader(results.BulkEmbeddings),
        query={"on_error": "skip"} | _given(model=model, dimensions=dimensions),
        content="\n".join(json.dumps(_text_or_image(item)) for item in inputs).encode(),
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
    body = {"query": _text_or_image(query), "candidates": [_text_or_image(item) for item in candidates]}
    return Call("POST", "/v1/rank", _reader(results.Ranking), json=body | _given(top_k=top_k, model=model))


def create_job(
    prompt: str | Sequence[results.Prompt],
    *,
    prompts: Sequence[results.Prompt] = (),
    generator: str | None = None,
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    seed: int | str | None = None,
    num_images: int | None = None,
    quality: str | None = None,
    aspect: str | None = None,
    compat: str | None = None,
    options: Mapping[str, Any] | None = None,
    save: Mapping[str, Any] | None = None,
    priority: str | None = None,
    start_timeout_s: int | None = None,
    run_timeout_s: int | None = None,
    webhook: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
) -> Call[results.Job]:
    """Ask for a drawing; the answer is the job that will make it.

    Args:
        prompt: a text, in which `a fox | blurry:-0.3` means two prompts with weights; or a list of `Prompt`.
        prompts: beside those of the text, such as pictures.
        width: pixels, as `height`; without, the generator's own.
        seed: a number, or a word that stands for one.
        quality: a name for a set of defaults, as `aspect` and `compat`; see `presets` in `generators`.
        options: the generator's own, see `generators`; pictures as paths, bytes of files or PIL images.
        save: what is kept beside the pictures, such as `{"format": "webp", "video": "mp4"}`.
        start_timeout_s: the job expires if no worker starts it in time.
        run_timeout_s: the job fails when it has run for so long.
        webhook: `{"url": …, "events": […]}`, who is told what happens to the job.
        idempotency_key: the same key with the same request makes one job only, for 24 h; without, each
            call has a new one, so that its retries make one job.
    """
    line, listed = (prompt, prompts) if isinstance(prompt, str) else (None, [*prompt, *prompts])
    asked = _given(
        prompt=line,
        prompts=[_prompt(item) for item in listed] or None,
        generator=generator,
        width=width,
        height=height,
        steps=steps,
        seed=seed,
        num_images=num_images,
        quality=quality,
        aspect=aspect,
        compat=compat,
        options=options and {name: _option(value) for name, value in options.items()},
        save=save and dict(save),
        priority=priority,
        start_timeout_s=start_timeout_s,
        run_timeout_s=run_timeout_s,
        webhook=webhook and dict(webhook),
        metadata=metadata and dict(metadata),
    )
    key = idempotency_key or uuid.uuid4().hex
    return Call("POST", "/v1/jobs", _reader(results.Job), json=asked, headers={"Idempotency-Key": key})


def job(job_id: str, *, wait_s: float = 0) -> Call[results.Job]:
    """A job as soon as it is final, or as it is after `wait_s` seconds (at most 60)."""
    wait = min(math.ceil(wait_s), MAX_WAIT_S)
    return Call(
        "GET",
        _job_path(job_id),
        _reader(results.Job),
        headers={"Prefer": f"wait={wait}"} if wait > 0 else {},
        read_timeout_s=wait + 30,
    )


def jobs(*, status: str | None = None, limit: int = 20, after: str | None = None) -> Call[results.JobPage]:
    """A page of jobs, newest first; `after` is the last id of the page before."""
    query = {"limit": limit} | _given(status=status, after=after)
    return Call("GET", "/v1/jobs", _reader(results.JobPage), query=query)


def cancel(job_id: str) -> Call[results.Job]:
    """Stop a job: a queued one at once, a running one within a step."""
    return Call("POST", f"{_job_path(job_id)}/cancel", _reader(results.Job))


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
    return Call("GET", "/v1/queue", _reader(results.QueueState))


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


def _reader(kind: type[Answer]) -> Callable[[httpx.Response], Answer]:
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
    asked = prompt.model_dump(mode="json", exclude_defaults=True, exclude={"image", "target"})
    pictures = {"image": prompt.image, "target": prompt.target}
    return asked | {kind: encode_image(picture) for kind, picture in pictures.items() if picture is not None}


def _option(value: Any) -> Any:
    is_picture = isinstance(value, os.PathLike | bytes) or hasattr(value, "save")
    return encode_image(value) if is_picture else value


def _text_or_image(item: str | ImageSource) -> dict[str, str]:
    return {"text": item} if isinstance(item, str) else {"image": encode_image(item)}


def _job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
