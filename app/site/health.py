"""The models, generators and queue of the service, its health for probes, and its metrics."""

import asyncio
from collections import Counter
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from app.clip.registry import Clips, ClipsInUse, ModelNotFound
from app.clip.schemas import ModelAnswer, ModelList
from app.dependencies import AnyCaller, InUse, QueueUnavailable
from app.http.route_docs import responses
from app.jobs.schemas import GeneratorList, QueueAnswer
from jobs.queue import JobQueue
from storage.blobs import StorageFull, Store, StoreUnavailable
from storage.collections.vector_sets import VectorsUnavailable

router = APIRouter(tags=["service"])


class ReadyAnswer(BaseModel):
    """Whether the service is ready, and the state of each part."""

    status: Literal["ready", "not ready"]
    parts: dict[str, str]


@router.get("/v1/models", responses=responses(401))
async def list_models(caller: AnyCaller, clips: ClipsInUse) -> ModelList:
    """The CLIPs that are served, the default first."""
    return ModelList(data=[_model(name, clips) for name in clips.cards])


@router.get("/v1/models/{name}", responses=responses(401, 404))
async def show_model(name: str, caller: AnyCaller, clips: ClipsInUse) -> ModelAnswer:
    """A CLIP that is served."""
    if name not in clips.cards:
        raise ModelNotFound(f"no model {name!r} is served; there are {', '.join(clips.cards)}")
    return _model(name, clips)


@router.get("/v1/generators", responses=responses(401))
async def list_generators(caller: AnyCaller, request: Request) -> GeneratorList:
    """The generators, with their options as JSON Schema, their defaults and limits."""
    return GeneratorList(data=request.state.generators)


@router.get("/v1/queue", responses=responses(401, 503))
async def show_queue(caller: AnyCaller, resources: InUse) -> QueueAnswer:
    """The numbers of queued and running jobs, and the workers."""
    return await resources.ask(_read_queue, resources.queue)


@router.get("/livez", response_class=PlainTextResponse)
async def livez() -> Response:
    """200 while the process runs, whatever its dependencies do."""
    return Response("ok\n", media_type="text/plain")


@router.get(
    "/readyz",
    responses={
        200: {"model": ReadyAnswer},
        503: {"model": ReadyAnswer, "description": "a part is not ready; each says why"},
    },
)
async def readyz(resources: InUse, clips: ClipsInUse) -> JSONResponse:
    """200 if every part is ready, else 503, with the state of each part.

    CLIPs that are not loaded at the start do not count.
    """
    parts: dict[str, str] = {}
    try:
        await resources.ask(resources.queue.ping)
        parts["queue"] = "ready"
    except QueueUnavailable:
        parts["queue"] = "failed: Redis does not answer"
    if resources.settings.vector_redis_url:
        try:
            await resources.ask_vectors(resources.vectors.ping)
            parts["vectors"] = "ready"
        except VectorsUnavailable:
            parts["vectors"] = "failed: Redis does not answer"
    parts["store"] = await asyncio.to_thread(_store_state, resources.store)
    if resources.stopping.is_set():
        parts["api"] = "stopping"
    ready = clips.preloaded and all(state == "ready" for state in parts.values())
    parts = {f"clip:{name}": clips.status(name) for name in clips.cards} | parts
    return JSONResponse(
        {"status": "ready" if ready else "not ready", "parts": parts},
        200 if ready else 503,
        None if ready else {"Retry-After": "5"},
    )


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(resources: InUse) -> Response:
    """Metrics for Prometheus, also while Redis is unavailable."""
    values = resources.metrics
    values.jobs.clear()
    values.workers.clear()
    try:
        queue = await resources.ask(_read_queue, resources.queue)
        values.webhook_lag.set(await resources.ask(resources.outbox.lag_s))
    except QueueUnavailable:
        values.redis_up.set(0)
    else:
        values.redis_up.set(1)
        values.jobs.labels("queued").set(queue.queued)
        values.jobs.labels("running").set(queue.running)
        for state, count in Counter(worker["state"] for worker in queue.workers).items():
            values.workers.labels(state).set(count)
    return Response(generate_latest(values.registry), media_type=CONTENT_TYPE_LATEST)


def _read_queue(queue: JobQueue) -> QueueAnswer:
    workers = [{"name": worker.name, "state": worker.state, **worker.detail} for worker in queue.workers()]
    return QueueAnswer(**queue.counts(), workers=workers)


def _store_state(store: Store) -> str:
    try:
        store.check()
    except StorageFull:
        return "failed: little room is left"
    except StoreUnavailable:
        return "failed: it cannot be reached"
    return "ready"


def _model(name: str, clips: Clips) -> ModelAnswer:
    card = clips.cards[name]
    status = clips.status(name)
    sizes: dict[str, Any] = {
        "embedding_dim": card.embedding_dim,
        "image_size": card.image_size,
        "context_length": card.context_length,
    }
    clip = clips.peek(name)
    if clip is not None:
        encoder = clip.encoder
        sizes = {
            "embedding_dim": encoder.dimension,
            "image_size": encoder.image_size,
            "context_length": encoder.context_length,
        }
    return ModelAnswer(
        id=name,
        created=clips.since,
        status=status.partition(":")[0],
        loaded=status == "ready",
        description=card.description,
        license=card.license,
        **sizes,
    )
