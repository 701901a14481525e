"""The composition root of the API: makes its resources, and puts the routes together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TypedDict

import anyio
from fastapi import FastAPI

import models.clip
from app.clip import routes
from app.clip.registry import Clips, LoadClip, open_clips, open_pool
from app.collections import routes as collections
from app.compat import openai_routes, weaviate_immich
from app.dependencies import Keys, Resources
from app.http import errors
from app.http.concurrency import StreamSlots
from app.http.middleware import BodyLimit, RequestContext
from app.http.route_docs import body_readers
from app.jobs import routes as jobs
from app.jobs.prepare_drawing import view_generator
from app.jobs.schemas import GeneratorAnswer
from app.metrics import Metrics
from app.settings import ApiSettings
from app.site import health, openapi, page
from jobs.queue import JobQueue
from jobs.record.outbox import Outbox
from storage.blobs import open_store
from storage.collections.vector_sets import VectorSets
from storage.redis import connect, connect_async

VERSION = "0.1.0"
VECTOR_CALLS = 32  # calls to the vector Redis at once


class State(TypedDict):
    """What every request finds in `request.state`."""

    resources: Resources
    clips: Clips
    generators: list[GeneratorAnswer]


def create_app(
    settings: ApiSettings,
    *,
    stopping: asyncio.Event | None = None,
    load_clip: LoadClip | None = None,
    clips_changed: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The API.

    Args:
        stopping: set when the process is to end: event streams end, and `/readyz` reports it.
        load_clip: name -> CLIP; by default `models.clip.load` with the settings.
        clips_changed: called when a CLIP was loaded or evicted.
    """
    metrics = Metrics()
    load = load_clip or partial(
        models.clip.load, weights=settings.weights, device=settings.device, dtype=settings.clip_dtype
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        async with AsyncExitStack() as stack:
            queue = JobQueue(settings)
            stack.callback(queue.close)
            outbox_redis = connect(settings.redis_url, patience_s=1)
            stack.callback(outbox_redis.close)
            vectors = VectorSets(settings.vectors_url, timeout_s=settings.vector_timeout_s)
            stack.callback(vectors.close)
            events = connect_async(settings.redis_url)
            stack.push_async_callback(events.aclose)
            pool = open_pool(settings)
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            clips = await stack.enter_async_context(open_clips(settings, metrics, load, pool, clips_changed))
            yield State(
                resources=Resources(
                    settings=settings,
                    queue=queue,
                    outbox=Outbox(outbox_redis),
                    vectors=vectors,
                    vector_calls=anyio.CapacityLimiter(VECTOR_CALLS),
                    events=events,
                    store=open_store(settings.store),
                    pool=pool,
                    keys=Keys(settings.api_keys),
                    metrics=metrics,
                    streams=StreamSlots(settings.max_streams_per_caller, metrics),
                    waits=asyncio.Semaphore(settings.max_waits),
                    stopping=stopping or asyncio.Event(),
                ),
                clips=clips,
                # at the start, so that an unreadable card fails the start and not a request
                generators=[view_generator(name, settings) for name in settings.generators],
            )

    app = FastAPI(
        title="Clipcanvas",
        version=VERSION,
        description="CLIP looks at images, VQGAN+CLIP draws them. Errors are RFC 9457 problems.",
        lifespan=lifespan,
        # the library would store bodies and messages of exceptions
        telemetry={"tracing": False, "metrics": False, "logs": False},
        docs_url=None,  # FastAPI's own page loads its files from elsewhere
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,  # what clients call their methods
    )
    for router in (
        routes.router,
        collections.router,
        jobs.router,
        openai_routes.router,
        health.router,
        page.router,
        *(weaviate_immich.ROUTERS[name] for name in dict.fromkeys(settings.compat)),
    ):
        app.include_router(router)
    errors.install(app)
    app.openapi = partial(openapi.describe, app)  # type: ignore[method-assign]  # FastAPI's own way to change it
    # the last one added is the outermost
    app.add_middleware(
        BodyLimit,
        readers={path: reader for path, _, reader in body_readers(app)},
        settings=settings,
    )
    app.add_middleware(RequestContext, metrics=metrics)
    return app
