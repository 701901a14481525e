"""CLIP as two neighbors ask for it, in place of their containers: Weaviate's multi2vec-clip and Immich's.

They are off unless the settings name them. Both take texts of any length and read their beginning, as those
containers do.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from app.clip.batched_clip import BatchedClip, Text, Timings
from app.clip.registry import Clips, ClipsInUse
from app.dependencies import ClipCaller, InUse, Resources
from app.http.body import (
    InvalidBody,
    JsonBody,
    JsonOrForm,
    Parts,
    check_limit,
    fields_of,
    json_answer,
    parse_json,
)
from app.http.concurrency import both, run_for_client
from app.http.fields import RequestModel
from app.http.image_input import ImageData, Source, decode
from app.http.route_docs import TIMEOUT, responses

weaviate = APIRouter(tags=["Weaviate"])
immich = APIRouter(tags=["Immich"])
ROUTERS: Mapping[str, APIRouter] = {"weaviate": weaviate, "immich": immich}

_ERRORS = responses(400, 401, 403, 404, 408, 413, 415, 422, 503, 504)
_TASKS = {"type": "string", "description": "the tasks as JSON"}


class VectorizeRequest(RequestModel):
    """Texts and pictures, as Weaviate sends them."""

    texts: list[str] | None = None
    images: list[ImageData] | None = None


Rows = Annotated[
    Any, WithJsonSchema({"type": "array", "items": {"type": "array", "items": {"type": "number"}}})
]
"""An array (N, D)."""


class Vectors(BaseModel):
    """A vector of unit length for each."""

    textVectors: Rows
    imageVectors: Rows


class NamedModel(BaseModel):
    """A model by Immich's name for it, such as ViT-B-32__openai, or by ours."""

    model_config = ConfigDict(extra="ignore")  # its options choose among languages of other models

    modelName: Annotated[str, Field(min_length=1, max_length=200)]


class ClipTask(RequestModel):
    """What of a CLIP is asked: one of the two."""

    textual: NamedModel | None = None
    visual: NamedModel | None = None


class Entries(RequestModel):
    """The tasks; faces and texts in pictures are no tasks of a CLIP."""

    clip: ClipTask


class PredictRequest(RequestModel):
    """A form of Immich's."""

    entries: Entries
    text: str | None = None
    image: ImageData | None = None


class Prediction(BaseModel):
    """A vector, written as JSON in a text; and how large the picture is."""

    clip: str
    imageHeight: int | None = None
    imageWidth: int | None = None


def _predict_form(parts: Parts) -> dict[str, Any]:
    fields = fields_of(parts)
    if isinstance(fields.get("entries"), str):
        fields["entries"] = parse_json(fields["entries"].encode())
    return fields


@weaviate.get("/.well-known/live", status_code=204)
async def show_weaviate_live() -> None:
    """204 while the process turns."""


@weaviate.get("/.well-known/ready", status_code=204, responses=responses(503))
async def show_weaviate_ready(clips: ClipsInUse) -> None:
    """204 when the model is ready."""
    clips.get(None)


@weaviate.get("/meta", responses=responses(401, 403, 503))
async def show_weaviate_meta(caller: ClipCaller, clips: ClipsInUse) -> dict[str, Any]:
    """What the model is."""
    encoder = clips.get(None).encoder
    return {"model": encoder.name, "embedding_dim": encoder.dimension, "image_size": encoder.image_size}


@weaviate.post(
    "/vectorize",
    responses={200: {"model": Vectors}, **_ERRORS},
    openapi_extra=TIMEOUT,
)
async def vectorize(
    request: Request,
    caller: ClipCaller,
    body: Annotated[VectorizeRequest, JsonBody()],
    resources: InUse,
    clips: ClipsInUse,
) -> Response:
    """Turn texts and pictures into vectors, by the first of the models."""
    settings = resources.settings
    texts, images = body.texts or [], body.images or []
    check_limit("#/images", len(images), settings.max_images, "images")
    check_limit("#/texts", len(texts), settings.max_texts, "texts")
    clip, timings = clips.get(None), Timings()
    sources = [Source(image, f"#/images/{index}") for index, image in enumerate(images)]
    readable = await _shortened(texts, clip, resources)
    image_rows, (text_rows, _) = await run_for_client(
        request,
        resources.settings,
        lambda: both(clip.embed_images(sources, timings), clip.embed_texts(readable, timings)),
    )
    answer = Vectors.model_construct(textVectors=text_rows, imageVectors=image_rows)
    return json_answer(answer, timings.headers())


@immich.get("/ping", response_class=PlainTextResponse)
async def ping() -> Response:
    """`pong` while the process turns."""
    return Response("pong", media_type="text/plain")


@immich.post(
    "/predict",
    responses={200: {"model": Prediction}, **_ERRORS},
    openapi_extra=TIMEOUT,
)
async def predict(
    request: Request,
    caller: ClipCaller,
    body: Annotated[PredictRequest, JsonOrForm(from_form=_predict_form, shown={"entries": _TASKS})],
    resources: InUse,
    clips: ClipsInUse,
) -> Response:
    """Turn a text or a picture into a vector."""
    task = body.entries.clip
    timings = Timings()
    size: dict[str, int] = {}
    if task.visual is not None and body.image is not None and task.textual is None:
        clip = _clip_named(task.visual.modelName, clips)
        source = Source(body.image, "#/image")
        rows = await run_for_client(request, resources.settings, lambda: clip.embed_images([source], timings))
        loop = asyncio.get_running_loop()
        limits = resources.settings.image_limits
        picture = await loop.run_in_executor(resources.pool, decode, source, limits)
        size = {"imageHeight": picture.height, "imageWidth": picture.width}
    elif task.textual is not None and body.text is not None and task.visual is None:
        clip = _clip_named(task.textual.modelName, clips)
        texts = await _shortened([body.text], clip, resources)
        rows, _ = await run_for_client(request, resources.settings, lambda: clip.embed_texts(texts, timings))
    else:
        detail = "expected the task visual and an image, or the task textual and a text"
        raise InvalidBody.at("#/entries/clip", "invalid_task", detail)
    vector = orjson.dumps(rows[0], option=orjson.OPT_SERIALIZE_NUMPY).decode()
    return json_answer(Prediction(clip=vector, **size), timings.headers())


def _clip_named(name: str, clips: Clips) -> BatchedClip:
    """The CLIP of that name, or the one that Immich calls so: ARCHITECTURE__TAG, _ as good as -."""
    dashed = name.replace("_", "-")
    for card in clips.cards.values():
        if card.scheme == "open_clip" and card.place.replace("/", "__").replace("_", "-") == dashed:
            return clips.get(card.name)
    return clips.get(name)


async def _shortened(texts: list[str], clip: BatchedClip, resources: Resources) -> list[Text]:
    """The beginnings of texts that the model reads whole."""
    encoder, max_chars = clip.encoder, resources.settings.max_text_chars
    limit = encoder.context_length

    def shorten(text: str) -> str:
        text = text[:max_chars]
        if encoder.count_tokens(text) <= limit:
            return text
        ends = range(len(text) + 1)
        return text[: bisect_right(ends, limit, key=lambda end: encoder.count_tokens(text[:end])) - 1]

    def shorten_all() -> list[Text]:
        return [Text(shorten(text), f"#/texts/{index}") for index, text in enumerate(texts)]

    return await asyncio.get_running_loop().run_in_executor(resources.pool, shorten_all)
