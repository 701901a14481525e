"""CLIP over HTTP: classify, embed, rank; answered at once."""

import math
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from app.clip.batched_clip import BatchedClip, Timings
from app.clip.bulk import embed_stream
from app.clip.bulk_parsers import is_bulk, splitter_of, wants_npy
from app.clip.embed import answer, check_labels, embed
from app.clip.schemas import (
    BulkOptions,
    ClassifyAnswer,
    ClassifyRequest,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    RankAnswer,
    RankRequest,
    VectorOptions,
)
from app.clip.vector_response import json_answer, vector_answer
from app.dependencies import ClipCaller, InUse, Resources
from app.http.body import NPY, Parts, check_limit, fields_of, read, validate
from app.http.concurrency import in_time
from app.http.image_input import Source
from app.http.multipart import MalformedBody
from app.http.tasks import both
from app.settings import ApiSettings
from app.site.openapi import BULK, TIMEOUT, body, responses
from models.clip.zero_shot import probabilities, similarity

ERRORS = responses(400, 401, 403, 404, 408, 413, 415, 422, 503, 504)

router = APIRouter(prefix="/v1", tags=["CLIP"])


@router.post(
    "/classify",
    responses={200: {"model": ClassifyAnswer}, **ERRORS},
    openapi_extra=body(
        ClassifyRequest,
        {"image": "files", "labels": "texts", "templates": "templates", "top_k": "integer", "model": "text"},
        required=("image", "labels"),
    )
    | TIMEOUT,
)
async def classify(request: Request, caller: ClipCaller, resources: InUse) -> Response:
    """Say which of some labels each picture shows, and how likely each is."""
    asked = await read(request, ClassifyRequest, _classify_form)
    clip = resources.clips.get(asked.model)
    templates = clip.templates if asked.templates is None else tuple(asked.templates)
    _check_classify(asked, templates, resources.settings)
    sources = [Source(image, f"#/images/{index}") for index, image in enumerate(asked.images)]
    timings = Timings()
    images, labels = await answer(
        request,
        resources,
        lambda: both(
            clip.embed_images(sources, timings), clip.embed_labels(asked.labels, templates, timings)
        ),
    )
    cosines = similarity(images, labels)  # (N, L)
    chances = probabilities(cosines, clip.encoder.logit_scale, clip.encoder.logit_bias)
    data = [
        {
            "index": index,
            "labels": [
                {"label": asked.labels[i], "probability": chance[i], "similarity": row[i]}
                for i in _best(row, asked.top_k)
            ],
        }
        for index, (row, chance) in enumerate(zip(cosines, chances, strict=True))
    ]
    usage = {"images": len(sources), "texts": len(asked.labels) * len(templates)}
    return _listed(clip, data, timings, usage=usage)


@router.post(
    "/embeddings",
    responses={200: {"model": EmbeddingsAnswer, "content": {NPY: {}}}, **ERRORS},
    openapi_extra=body(
        EmbeddingsRequest,
        {
            "image": "files",
            "text": "texts",
            "model": "text",
            "encoding_format": "encoding",
            "dimensions": "integer",
            "dtype": "dtype",
        },
        any_of=("image", "text"),
        bulk=True,
    )
    | BULK,
)
async def create_embeddings(request: Request, caller: ClipCaller, resources: InUse) -> Response:
    """Turn texts and pictures into vectors of one space. OpenAI's clients work with this as they are."""
    if is_bulk(request.scope):
        return await _embed_bulk(request, resources)
    asked = await read(request, EmbeddingsRequest, _embeddings_form)
    clip = _clip_of(asked, resources)
    timings = Timings()
    items = {f"#/input/{index}": item for index, item in enumerate(asked.input)}
    rows, tokens = await answer(request, resources, lambda: embed(clip, items, resources.settings, timings))
    return vector_answer(
        rows,
        asked,
        model=clip.encoder.name,
        tokens=tokens,
        npy=wants_npy(request.headers),
        headers={"Server-Timing": timings.header()},
    )


async def _embed_bulk(request: Request, resources: Resources) -> Response:
    settings = resources.settings
    options = validate(BulkOptions, dict(request.query_params), strict=False, at="query")
    clip = _clip_of(options, resources)
    splitter = splitter_of(request.headers, settings.max_body_bytes)
    skip = options.on_error == "skip"
    embedded = await in_time(
        request, lambda: embed_stream(request, splitter, clip, settings, skip=skip), math.inf
    )
    if not embedded.rows and not embedded.refused:
        raise MalformedBody("there are no items in the body")
    return vector_answer(
        embedded.table(clip.encoder.dimension),
        options,
        model=clip.encoder.name,
        tokens=embedded.tokens,
        npy=wants_npy(request.headers),
        headers={},
        refused=embedded.refused,
    )


def _clip_of(options: VectorOptions, resources: Resources) -> BatchedClip:
    clip = resources.clips.get(options.model)
    if options.dimensions is not None:
        check_limit("#/dimensions", options.dimensions, clip.encoder.dimension, "dimensions")
    return clip


@router.post(
    "/rank", responses={200: {"model": RankAnswer}, **ERRORS}, openapi_extra=body(RankRequest) | TIMEOUT
)
async def rank(request: Request, caller: ClipCaller, resources: InUse) -> Response:
    """Order texts or pictures by how near they are to a text or a picture."""
    asked = await read(request, RankRequest)
    clip = resources.clips.get(asked.model)
    timings = Timings()
    items = {f"#/candidates/{index}": item for index, item in enumerate(asked.candidates)}
    items["#/query"] = asked.query
    rows, _ = await answer(request, resources, lambda: embed(clip, items, resources.settings, timings))
    cosines = similarity(rows[-1:], rows[:-1])[0]
    data = [{"index": int(i), "similarity": cosines[i]} for i in _best(cosines, asked.top_k)]
    return _listed(clip, data, timings)


def _classify_form(parts: Parts) -> dict[str, Any]:
    return fields_of(parts, {"image": "images", "labels": "labels", "templates": "templates"})


def _embeddings_form(parts: Parts) -> dict[str, Any]:
    inputs = [{name: value} for name, value in parts if name in ("image", "text")]
    rest = fields_of([part for part in parts if part[0] not in ("image", "text")])
    return {**rest, **({"input": inputs} if inputs else {})}


def _check_classify(asked: ClassifyRequest, templates: tuple[str, ...], settings: ApiSettings) -> None:
    check_limit("#/images", len(asked.images), settings.max_images, "images")
    check_labels(asked.labels, templates, settings)


def _best(scores: NDArray[np.float32], top_k: int | None) -> NDArray[np.intp]:
    return np.argsort(-scores, kind="stable")[:top_k]


def _listed(clip: BatchedClip, data: list[dict[str, Any]], timings: Timings, **more: Any) -> Response:
    said = {"object": "list", "model": clip.encoder.name, "data": data, **more}
    return json_answer(said, {"Server-Timing": timings.header()})
