"""The CLIPs that are served: loaded when a request names them, evicted when another needs the memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated

import numpy as np
import structlog
from fastapi import Depends, Request

from app.clip.batched_clip import BatchedClip, EncoderLimits
from app.clip.batcher import BatchLimits, Device
from app.http.errors import Answer, HttpProblem, Overloaded
from app.metrics import Metrics
from app.settings import ApiSettings
from models.catalog.memory import GIB, serving_memory
from models.clip import ClipEncoder, use_cores
from models.clip.cards import ClipCard, find_card
from models.clip.warmup import best_batch
from models.runtime.machine import cores

log = structlog.stdlib.get_logger(__name__)

LoadClip = Callable[[str], ClipEncoder]
StartClip = Callable[[str], BatchedClip]

QUIET_S = 5.0
"""Seconds after its last use during which a model is not evicted, unless another has waited `PATIENCE_S`."""

PATIENCE_S = 30.0
RETRY_S = 60.0  # after a load failed, requests start no other load for so long
_POLL_S = 0.1
_LONG_S = 0.01  # per item: for shorter items two threads wait for the GIL more than they compute

# what clients are told of a failed load; the log has the rest
_REASONS = {
    "WeightsMissing": "its weights are missing; `clipcanvas models pull {name}` fetches them",
    "WeightsCorrupt": "its weights are not those of its card",
    "WeightsUnusable": "its weights do not fit it",
}


class ModelNotFound(HttpProblem):
    """No CLIP of that name is served."""

    answer = Answer(404, "model_not_found", "No such model")


class ModelLoading(HttpProblem):
    """The CLIP is being loaded."""

    answer = Answer(503, "model_loading", "The model is loading", 5)


class ModelUnavailable(HttpProblem):
    """The CLIP could not be loaded."""

    answer = Answer(503, "model_unavailable", "The model could not be loaded", 60)


class Clips:
    """Every CLIP of the settings, loaded or not. The first is the default.

    Args:
        preload: the models to load at once; others are loaded on their first use.
        start: loads a model, on a thread of its own; slow.
        memory: bytes of each model, by name.
        budget: bytes of all loaded models; 0: no bound.
        changed: called when a model was loaded or evicted.
    """

    def __init__(
        self,
        cards: Mapping[str, ClipCard],
        preload: Sequence[str],
        start: StartClip,
        memory: Mapping[str, int],
        budget: int,
        changed: Callable[[], None],
    ) -> None:
        self.cards = cards
        self.since = int(time.time())  # when this process began to serve them
        self._start = start
        self._memory = memory
        self._budget = budget
        self._changed = changed
        self._loaded: dict[str, BatchedClip] = {}  # the least recently used first
        self._used: dict[str, float] = {}  # times of last use
        self._failed: dict[str, tuple[str, float]] = {}  # reasons and times
        self._loading: dict[str, None] = dict.fromkeys(preload)  # in the order of requests
        self._requested = asyncio.Event()
        self._not_yet = set(preload)

    @property
    def preloaded(self) -> bool:
        """Whether all models of `preload` have been loaded."""
        return not self._not_yet

    def get(self, name: str | None) -> BatchedClip:
        """The CLIP of that name, or the default. A model that is not loaded begins to load.

        Raises:
            ModelNotFound, ModelLoading, ModelUnavailable
        """
        chosen = next(iter(self.cards)) if name is None else name
        if chosen not in self.cards:
            raise ModelNotFound(f"no model {chosen!r} is served; there are {', '.join(self.cards)}")
        now = time.monotonic()
        if chosen in self._loaded:
            self._used[chosen] = now
            clip = self._loaded[chosen] = self._loaded.pop(chosen)
            return clip
        if chosen in self._failed:
            why, when = self._failed[chosen]
            if now < when + RETRY_S:
                raise ModelUnavailable(f"{chosen} could not be loaded: {why}")
            del self._failed[chosen]
        self._loading.setdefault(chosen)
        self._requested.set()
        raise ModelLoading(f"{chosen} is loading")

    def peek(self, name: str) -> BatchedClip | None:
        """The CLIP of that name if it is loaded; this does not count as a use."""
        return self._loaded.get(name)

    def check_room(self) -> None:
        """Raises app.http.errors.Overloaded: no loaded CLIP accepts one more image now."""
        full: Overloaded | None = None
        for clip in self._loaded.values():
            try:
                return clip.check_room()
            except Overloaded as overloaded:
                full = overloaded
        if full is not None:
            raise full

    def status(self, name: str) -> str:
        """`ready`, `loading`, `unloaded`, or `failed: ` and the reason."""
        if name in self._loaded:
            return "ready"
        if name in self._failed:
            return f"failed: {self._failed[name][0]}"
        return "loading" if name in self._loading else "unloaded"

    async def run(self) -> None:
        """Load requested models one after the other until cancelled; then stop all of them."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        try:
            while True:
                if not self._loading:
                    self._requested.clear()
                    await self._requested.wait()
                name = next(iter(self._loading))
                try:
                    await self._make_room(name)
                    clip = await asyncio.get_running_loop().run_in_executor(thread, self._start, name)
                    self._loaded[name] = await clip.__aenter__()
                    self._used[name] = time.monotonic()
                    self._not_yet.discard(name)
                    log.info("model ready", model=name)
                except Exception as error:
                    why = _REASONS.get(type(error).__name__, "the log of the service says why")
                    why = why.format(name=name)
                    self._failed[name] = (why, time.monotonic())
                    log.exception("model failed to load", model=name)
                finally:
                    del self._loading[name]
                self._changed()
        finally:
            thread.shutdown(wait=False, cancel_futures=True)
            for clip in self._loaded.values():
                await clip.__aexit__()

    async def _make_room(self, name: str) -> None:
        """Evict the least recently used models until one more fits; wait while all are in use."""
        if not self._budget:
            return
        need, began = self._memory[name], time.monotonic()
        if need > self._budget:
            raise MemoryError(
                f"{name} takes {need / GIB:.1f} GiB; the budget is {self._budget / GIB:.1f} GiB"
            )
        while need + sum(self._memory[other] for other in self._loaded) > self._budget:
            now = time.monotonic()
            quiet_s = QUIET_S if now < began + PATIENCE_S else 0.0
            idle = [
                other
                for other, clip in self._loaded.items()
                if not clip.in_use and now >= self._used[other] + quiet_s
            ]
            if idle:
                await self._loaded.pop(idle[0]).__aexit__()
                self._changed()
                log.info("model evicted", model=idle[0], for_model=name)
            else:
                await asyncio.sleep(_POLL_S)


async def _clips(request: Request) -> Clips:
    clips: Clips = request.state.clips
    return clips


ClipsInUse = Annotated[Clips, Depends(_clips)]


@asynccontextmanager
async def open_clips(
    settings: ApiSettings,
    metrics: Metrics,
    load: LoadClip,
    pool: Executor,
    changed: Callable[[], None] = lambda: None,
) -> AsyncIterator[Clips]:
    """The CLIPs of the settings; `changed` is called when one was loaded or evicted.

    Raises:
        models.clip.UnknownClip: a name has no card.
    """
    timeout_s = settings.clip_timeout_s
    limits = EncoderLimits(
        images=BatchLimits(settings.max_batch_images, settings.max_waiting_images, timeout_s),
        texts=BatchLimits(settings.max_batch_texts, settings.max_waiting_texts, timeout_s),
        window=2 * decode_threads(settings),
        text_cache_rows=settings.text_cache_rows,
        image_cache_rows=settings.image_cache_rows,
        exact_decode=settings.exact_decode,
        decode=settings.image_limits,
    )
    cards = {name: find_card(name, settings.weights) for name in settings.clip_models}
    memory = {
        name: serving_memory(card, settings.weights, settings.clip_dtype) for name, card in cards.items()
    }
    cpu, gpu = Device(settings.clip_threads or cores(), use_cores, prepares=True), Device()

    def start(name: str) -> BatchedClip:
        encoder = load(name)
        device = cpu if encoder.on_cpu else gpu
        if encoder.on_cpu:
            use_cores(1)  # as under load, for which the batches are fitted
        if settings.clip_compile_batches:
            _compile(encoder, settings)
        fitted = fit_batches(encoder, limits, settings.clip_warm_up_s, device.threads)
        return BatchedClip(encoder, cards[name].templates, device, pool, fitted, metrics)

    clips = Clips(cards, settings.preloaded_clips, start, memory, settings.clip_memory, changed)
    running = asyncio.create_task(clips.run())
    try:
        yield clips
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        cpu.close()
        gpu.close()


def fit_batches(encoder: ClipEncoder, limits: EncoderLimits, budget_s: float, threads: int) -> EncoderLimits:
    """The limits with the batches that suit the model on this device; also makes the slow first calls.

    Args:
        budget_s: seconds to search for the best batch size.
        threads: of the device.
    """
    side = encoder.image_size

    def fit(encode: Callable[[int], None], tower: BatchLimits) -> BatchLimits:
        at_once = threads if _is_long(encode) else 1
        max_cores = _cores_of_one(encode, threads) if encoder.on_cpu else None
        most = best_batch(encode, tower.max_batch, budget_s / 2) if budget_s else tower.max_batch
        return replace(tower, at_once=at_once, max_cores=max_cores, max_batch=most)

    def images(size: int) -> None:
        encoder.encode_images(np.zeros((size, 3, side, side), np.uint8))

    def texts(size: int) -> None:
        encoder.encode_texts(["a photo of a cat, number one"] * size)

    return replace(limits, images=fit(images, limits.images), texts=fit(texts, limits.texts))


def _compile(encoder: ClipEncoder, settings: ApiSettings) -> None:
    began = time.monotonic()
    try:
        encoder.compile(settings.clip_compile_batches, graphs=settings.cuda_graphs)
    except Exception:  # a compiler fails in many ways
        log.exception("model could not be compiled; it serves uncompiled", model=encoder.name)
        return
    log.info("model compiled", model=encoder.name, seconds=round(time.monotonic() - began, 1))


def _cores_of_one(encode: Callable[[int], None], threads: int) -> int | None:
    """The number of cores that encode one item fastest: one, or all."""
    seconds = {}
    for count in (threads, 1):
        use_cores(count)
        encode(1)
        seconds[count] = min(_seconds(encode) for _ in range(2))
    return min(seconds, key=seconds.__getitem__)


def _is_long(encode: Callable[[int], None]) -> bool:
    """Whether one item takes so long that a second thread is worth its share of the GIL."""
    encode(1)  # the first call is slow
    return _seconds(encode) > _LONG_S


def _seconds(encode: Callable[[int], None]) -> float:
    began = time.perf_counter()
    encode(1)
    return time.perf_counter() - began


def open_pool(settings: ApiSettings) -> ThreadPoolExecutor:
    """The threads that decode images."""
    return ThreadPoolExecutor(decode_threads(settings), thread_name_prefix="decode")


def decode_threads(settings: ApiSettings) -> int:
    """The number of those threads."""
    return settings.decode_threads or cores()
