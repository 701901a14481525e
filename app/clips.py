"""The CLIPs that are served: they load one after the other while the port is open already."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from os import cpu_count

import numpy as np
import structlog

from app.batching import Device
from app.encoder import BatchedClip, EncoderLimits
from app.metrics import Metrics
from app.settings import ApiSettings
from models.clip import ClipEncoder
from models.clip.cards import ClipCard, find_card

log = structlog.stdlib.get_logger(__name__)

LoadClip = Callable[[str], ClipEncoder]

# what a client may know of a failed load; the log has the rest
_REASONS = {
    "WeightsMissing": "its weights are missing",
    "WeightsCorrupt": "its weights are not those of its card",
    "WeightsUnusable": "its weights do not fit it",
}


class ModelNotFound(LookupError):
    """No CLIP of that name is served."""


class ModelLoading(RuntimeError):
    """The CLIP is being loaded."""


class ModelUnavailable(RuntimeError):
    """The CLIP could not be loaded."""


class Clips:
    """Every CLIP of the settings, ready or not yet. The first is the default."""

    def __init__(self, cards: dict[str, ClipCard]) -> None:
        self.cards = cards
        self._ready: dict[str, BatchedClip] = {}
        self._failed: dict[str, str] = {}

    def get(self, name: str | None) -> BatchedClip:
        """The CLIP of that name, or the default.

        Raises:
            ModelNotFound, ModelLoading, ModelUnavailable
        """
        chosen = next(iter(self.cards)) if name is None else name
        if chosen not in self.cards:
            raise ModelNotFound(f"no model {chosen!r} is served; there are {', '.join(self.cards)}")
        if chosen in self._failed:
            raise ModelUnavailable(f"{chosen} could not be loaded: {self._failed[chosen]}")
        if chosen not in self._ready:
            raise ModelLoading(f"{chosen} is still loading")
        return self._ready[chosen]

    def status(self, name: str) -> str:
        """`ready`, `loading`, or `failed: ` and why."""
        if name in self._failed:
            return f"failed: {self._failed[name]}"
        return "ready" if name in self._ready else "loading"

    async def load(
        self, load: LoadClip, start: Callable[[ClipEncoder, ClipCard], BatchedClip], device: Device
    ) -> None:
        """Load them all; runs for as long as they serve, and stops their batching when it is cancelled."""
        async with AsyncExitStack() as serving:
            for name, card in self.cards.items():
                try:
                    encoder = await asyncio.get_running_loop().run_in_executor(
                        device.thread, _load, load, name
                    )
                except Exception as error:
                    self._failed[name] = _REASONS.get(type(error).__name__, "the log of the service says why")
                    log.exception("model failed to load", model=name)
                    continue
                self._ready[name] = await serving.enter_async_context(start(encoder, card))
                log.info("model ready", model=name)
            await asyncio.Event().wait()


@asynccontextmanager
async def open_clips(
    settings: ApiSettings,
    metrics: Metrics,
    load: LoadClip,
    pool: Executor,
    on_load: Callable[[], None] = lambda: None,
) -> AsyncIterator[Clips]:
    """The CLIPs of the settings, loading; `on_load` is called after each.

    Raises:
        models.clip.UnknownClip: a name has no card.
    """
    limits = EncoderLimits(
        max_batch_images=settings.max_batch_images,
        max_batch_texts=settings.max_batch_texts,
        max_waiting_images=settings.max_waiting_images,
        max_waiting_texts=settings.max_waiting_texts,
        max_wait_s=settings.clip_timeout_s,
        window=2 * decode_threads(settings),
        text_cache_rows=settings.text_cache_rows,
        image_cache_rows=settings.image_cache_rows,
        exact_decode=settings.exact_decode,
        image=settings.image_limits,
    )
    clips = Clips({name: find_card(name, settings.weights) for name in settings.clip_models})
    device = Device()

    def start(encoder: ClipEncoder, card: ClipCard) -> BatchedClip:
        on_load()
        return BatchedClip(encoder, card.templates, device, pool, limits, metrics)

    loading = asyncio.create_task(clips.load(load, start, device))
    try:
        yield clips
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        device.close()


def open_pool(settings: ApiSettings) -> ThreadPoolExecutor:
    """The threads that decode pictures."""
    return ThreadPoolExecutor(decode_threads(settings), thread_name_prefix="decode")


def decode_threads(settings: ApiSettings) -> int:
    """How many they are."""
    return settings.decode_threads or cpu_count() or 1


def _load(load: LoadClip, name: str) -> ClipEncoder:
    encoder = load(name)
    # the first calls are slow; they also show that the model works before it is called ready
    side = encoder.image_size
    encoder.encode_images(np.zeros((1, 3, side, side), np.uint8))
    encoder.encode_texts(["a photo"])
    return encoder
