"""CLIP over HTTP: classify, embed and rank, answered at once."""

import math
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from starlette.datastructures import Headers
from starlette.types import Scope

from app.clip.batched_clip import BatchedClip, Timings, check_labels, embed
from app.clip.bulk import embed_stream
from app.clip.bulk_parsers import is_bulk, splitter_of, wants_npy
from app.clip.registry import Clips, ClipsInUse
from app.clip.schemas import (
    BulkOptions,
    Classified,
    ClassifyAnswer,
    ClassifyRequest,
    ClassifyUsage,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    RankAnswer,
    Ranked,
    RankRequest,
    VectorOptions,
)
from app.clip.vector_response import vector_answer
from app.dependencies import ClipCaller, SettingsInUse
from app.http.body import (
    LINES,
    MULTIPART,
    NPY,
    TAR,
    JsonBody,
    JsonOrForm,
    check_limit,
    content_type,
    json_answer,
    validate,
)
from app.http.concurrency import both, in_time, run_for_client
from app.http.image_input import Source
from app.http.multipart import MalformedBody
from app.http.route_docs import FILE, TIMEOUT, query_parameters, responses
from app.settings import ApiSettings
from models.clip.zero_shot import probabilities, similarity

ERRORS = responses(400, 401, 403, 404, 408, 413, 415, 422, 503, 504)
LONG_FORM = 65_536  # bytes; a longer form holds images

router = APIRouter(prefix="/v1", tags=["CLIP"])


def check_room(scope: Scope) -> None:
    """Raises Overloaded: no CLIP accepts one more image, so a form that holds images is not read."""
    headers = Headers(scope=scope)
    if content_type(headers) == MULTIPART and int(headers.get("content-length", "0")) > LONG_FORM:
        clips: Clips = scope["state"]["clips"]
        clips.check_room()


_EMBEDDINGS_BODY = JsonOrForm(
    items="input",
    shown={"user": None},
    check=check_room,
    is_streamed=is_bulk,
    streamed={TAR: FILE, LINES: {"type": "string"}},
    max_streamed_bytes=lambda settings: settings.max_bulk_bytes,
    query=query_parameters(BulkOptions, tuple(BulkOptions.model_fields), description="of a bulk request"),
)


@router.post("/classify", responses={200: {"model": ClassifyAnswer}, **ERRORS}, openapi_extra=TIMEOUT)
async def classify(
    request: Request,
    caller: ClipCaller,
    body: Annotated[ClassifyRequest, JsonOrForm(aliases={"image": "images"}, check=check_room)],
    clips: ClipsInUse,
    settings: SettingsInUse,
) -> Response:
    """Say which of some labels each image shows, and how likely each is."""
    clip = clips.get(body.model)
    templates = clip.templates if body.templates is None else tuple(body.templates)
    check_limit("#/images", len(body.images), settings.max_images, "images")
    check_labels(body.labels, templates, settings)
    sources = [Source(image, f"#/images/{index}") for index, image in enumerate(body.images)]
    timings = Timings()
    images, labels = await run_for_client(
        request,
        settings,
        lambda: both(clip.embed_images(sources, timings), clip.embed_labels(body.labels, templates, timings)),
    )
    cosines = similarity(images, labels)  # (N, L)
    chances = probabilities(cosines, clip.encoder.logit_scale, clip.encoder.logit_bias)
    data: list[Classified] = [
        {
            "index": index,
            "labels": [
                {"label": body.labels[i], "probability": chance[i], "similarity": row[i]}
                for i in _best(row, body.top_k)
            ],
        }
        for index, (row, chance) in enumerate(zip(cosines, chances, strict=True))
    ]
    usage = ClassifyUsage(images=len(sources), texts=len(body.labels) * len(templates))
    answer = ClassifyAnswer.model_construct(model=clip.encoder.name, data=data, usage=usage)
    return json_answer(answer, timings.headers())


@router.post(
    "/embeddings",
    responses={200: {"model": EmbeddingsAnswer, "content": {NPY: {}}}, **ERRORS},
    openapi_extra=TIMEOUT,
)
async def create_embeddings(
    request: Request,
    caller: ClipCaller,
    body: Annotated[EmbeddingsRequest | None, _EMBEDDINGS_BODY],
    clips: ClipsInUse,
    settings: SettingsInUse,
) -> Response:
    """Turn texts and images into vectors of one space. OpenAI's clients work with this as they are."""
    if body is None:
        return await _embed_bulk(request, clips, settings)
    clip = _clip_of(body, clips)
    timings = Timings()
    items = {f"#/input/{index}": item for index, item in enumerate(body.input)}
    rows, tokens = await run_for_client(request, settings, lambda: embed(clip, items, settings, timings))
    return vector_answer(
        rows,
        body,
        model=clip.encoder.name,
        tokens=tokens,
        npy=wants_npy(request.headers),
        headers=timings.headers(),
    )


async def _embed_bulk(request: Request, clips: Clips, settings: ApiSettings) -> Response:
    options = validate(BulkOptions, dict(request.query_params), strict=False, at="query")
    clip = _clip_of(options, clips)
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
        refused=embedded.refused,
    )


def _clip_of(options: VectorOptions, clips: Clips) -> BatchedClip:
    clip = clips.get(options.model)
    if options.dimensions is not None:
        check_limit("#/dimensions", options.dimensions, clip.encoder.dimension, "dimensions")
    return clip


@router.post("/rank", responses={200: {"model": RankAnswer}, **ERRORS}, openapi_extra=TIMEOUT)
async def rank(
    request: Request,
    caller: ClipCaller,
    body: Annotated[RankRequest, JsonBody()],
    clips: ClipsInUse,
    settings: SettingsInUse,
) -> Response:
    """Order texts or images by how near they are to a text or an image."""
    clip = clips.get(body.model)
    timings = Timings()
    items = {f"#/candidates/{index}": item for index, item in enumerate(body.candidates)}
    items["#/query"] = body.query
    rows, _ = await run_for_client(request, settings, lambda: embed(clip, items, settings, timings))
    cosines = similarity(rows[-1:], rows[:-1])[0]
    data = [Ranked(index=int(i), similarity=cosines[i]) for i in _best(cosines, body.top_k)]
    return json_answer(RankAnswer.model_construct(model=clip.encoder.name, data=data), timings.headers())


def _best(scores: NDArray[np.float32], top_k: int | None) -> NDArray[np.intp]:
    return np.argsort(-scores, kind="stable")[:top_k]
