"""What routes depend on: who calls, by which API key, and what a running API holds."""

import asyncio
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ParamSpec, TypeVar, get_args

import anyio.to_thread
import redis.asyncio
from fastapi import Depends, Request

from app.http.concurrency import StreamSlots
from app.http.errors import Answer, HttpProblem
from app.metrics import Metrics
from app.settings import ApiKey, ApiSettings, Scope
from jobs.queue import JobQueue
from jobs.record.outbox import Outbox
from storage.blobs import Store
from storage.collections.vector_sets import VectorSets, VectorsUnavailable

P = ParamSpec("P")
T = TypeVar("T")

QUEUE_TIMEOUT_S = 1.9
"""Clients get an answer within two seconds, whatever Redis does."""


class QueueUnavailable(HttpProblem):
    """The job queue cannot be reached, or does not answer in time."""

    answer = Answer(503, "queue_unavailable", "The job queue is unavailable", 2)


class Unauthenticated(HttpProblem):
    """The request has no API key, or an unknown one."""

    answer = Answer(401, "invalid_api_key", "A valid API key is needed")


class Forbidden(HttpProblem):
    """The API key lacks a scope."""

    answer = Answer(403, "missing_scope", "The API key lacks a scope")


@dataclass(frozen=True)
class Caller:
    """Who calls. The name is the tenant of the jobs."""

    name: str
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Raises Forbidden if the caller's key lacks the scope."""
        if scope not in self.scopes:
            raise Forbidden(f"this API key lacks the scope {scope!r}")


ANYBODY = Caller("", frozenset(get_args(Scope)))


class Keys:
    """The API keys; without any, everybody may call."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        # by hash: the time of the look-up reveals nothing of a random key
        self._callers = {key.sha256: Caller(key.name, key.scopes) for key in keys}

    def caller(self, authorization: str | None) -> Caller:
        """The caller of an `Authorization` header. Raises Unauthenticated."""
        if not self._callers:
            return ANYBODY
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthenticated("expected the header Authorization: Bearer <key>")
        caller = self._callers.get(_digest(key.strip()))
        if caller is None:
            raise Unauthenticated("this API key is not known")
        return caller


def new_key(name: str) -> tuple[str, str]:
    """A new key, and its entry for the setting `api_keys` as JSON, which holds only the hash."""
    key = f"cc_{secrets.token_urlsafe(32)}"
    entry = ApiKey(name=name, sha256=_digest(key))
    return key, json.dumps(entry.model_dump(mode="json"), sort_keys=True)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True)
class Resources:
    """What a running API holds besides its models."""

    settings: ApiSettings
    queue: JobQueue
    outbox: Outbox
    vectors: VectorSets
    vector_calls: anyio.CapacityLimiter  # apart, so that a hanging vector Redis takes no threads of the queue
    events: redis.asyncio.Redis
    store: Store
    pool: Executor
    keys: Keys
    metrics: Metrics
    streams: StreamSlots
    waits: asyncio.Semaphore  # of requests that hold `Prefer: wait`
    stopping: asyncio.Event  # set when the process has been asked to end

    async def ask(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that waits for Redis, on a thread, for `QUEUE_TIMEOUT_S` at most.

        Raises:
            QueueUnavailable: the time is over, or Redis cannot be reached; the call may still take effect.
        """
        try:
            async with asyncio.timeout(QUEUE_TIMEOUT_S):
                return await anyio.to_thread.run_sync(
                    partial(function, *args, **kwargs), abandon_on_cancel=True
                )
        except (TimeoutError, redis.RedisError) as error:
            raise QueueUnavailable("the job queue cannot be reached") from error

    async def keep(self, key: str, data: bytes) -> None:
        """Save a file in the store, on a thread."""
        await asyncio.to_thread(self.store.save, key, data)

    async def forget(self, prefix: str) -> None:
        """Delete files of the store, on a thread."""
        await asyncio.to_thread(self.store.delete, prefix)

    async def ask_vectors(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that waits for the vector Redis, on a thread, for `vector_timeout_s` at most.

        Raises:
            VectorsUnavailable: the time is over, or Redis cannot be reached; the call may still take effect.
        """
        try:
            async with asyncio.timeout(self.settings.vector_timeout_s):
                return await anyio.to_thread.run_sync(
                    partial(function, *args, **kwargs), abandon_on_cancel=True, limiter=self.vector_calls
                )
        except TimeoutError as error:
            raise VectorsUnavailable("the server of the collections does not answer in time") from error


# `async`: FastAPI would run other dependencies on a thread. Not nested: each dependency costs a request 30 us
async def _resources(request: Request) -> Resources:
    resources: Resources = request.state.resources
    return resources


async def _settings(request: Request) -> ApiSettings:
    resources: Resources = request.state.resources
    return resources.settings


def _caller(*scopes: Scope) -> Callable[[Request], Awaitable[Caller]]:
    async def caller(request: Request) -> Caller:
        resources: Resources = request.state.resources
        caller = resources.keys.caller(request.headers.get("authorization"))
        request.state.caller = caller.name or None
        for scope in scopes:
            caller.require(scope)
        return caller

    return caller


InUse = Annotated[Resources, Depends(_resources)]
SettingsInUse = Annotated[ApiSettings, Depends(_settings)]
AnyCaller = Annotated[Caller, Depends(_caller())]
ClipCaller = Annotated[Caller, Depends(_caller("clip"))]
CollectionsCaller = Annotated[Caller, Depends(_caller("collections"))]
JobsCaller = Annotated[Caller, Depends(_caller("jobs"))]
