"""Indexing as attempts do it: a source's images go into a collection, past those that cannot be read."""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from threading import Semaphore
from typing import Any, TypeVar

import numpy as np
import structlog

import models.clip
from jobs.filenames import CHECKPOINT, REPORT
from jobs.images import ImageRefused, decode
from jobs.record.priorities import JobType
from jobs.record.record import Job, Output, Progress
from models.clip import ClipEncoder, Pixels, UnknownClip
from models.runtime.machine import cores
from models.weights_io import WeightsMissing
from models.weights_io.card import how_to_fetch
from storage.blobs import KeyMissing, Store
from storage.collections.collection import Collection, CollectionFull, CollectionMissing, Image
from storage.collections.image_fields import is_image_id
from storage.collections.thumbnails import thumbnail_key, thumbnail_of
from storage.collections.vector_sets import VectorSets, VectorsFull, VectorsUnavailable, VectorsUnsupported
from workers.indexing.sources import Entry, EntryRefused, Source, open_source
from workers.runner.job_errors import JobFailed
from workers.runner.pacing import Intervals, Pacing, Rate, Report, Signals
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)
T = TypeVar("T")

BATCH, LOW_MEMORY_BATCH = 32, 8  # images that are embedded in one call
AHEAD = 3  # batches that are being read while one is embedded
READERS = 16  # threads; most of them wait for a disk or a network
MAX_REFUSALS = 10_000  # that the report lists; the others are counted

LoadClip = Callable[[str], ClipEncoder]


class Indexing:
    """The work of a worker that indexes; `workers.runner.attempt.Work` says how it is called.

    Args:
        load_clip: name -> CLIP; else `models.clip.load`, as the settings have it.
    """

    type: JobType = "index"

    def __init__(self, settings: WorkerSettings, store: Store, load_clip: LoadClip | None = None) -> None:
        self._settings = settings
        self.store = store
        self._vectors = VectorSets(settings.vectors_url, timeout_s=settings.vector_timeout_s)
        self._load = load_clip or partial(
            models.clip.load, weights=settings.weights, device=settings.device, dtype=settings.dtype
        )
        self._clip: tuple[str, ClipEncoder] | None = None  # the one of the last job

    def needs_low_memory(self, job: Job) -> bool:
        return False

    def run(
        self,
        job: Job,
        folder: str,
        report: Report,
        signals: Signals,
        intervals: Intervals,
        *,
        low_memory: bool,
    ) -> tuple[Output, ...]:
        pacing = Pacing(signals, intervals, job.ran_s)
        run = _Run(job, folder, self.store, self._vectors, self._settings, report, pacing)
        try:
            collection = run.patiently(partial(self._vectors.get, job.tenant, job.indexing.collection))
            encoder = self._clip_of(collection)
            return run.index(collection, encoder, LOW_MEMORY_BATCH if low_memory else BATCH)
        except CollectionMissing as error:
            raise JobFailed("collection_not_found", str(error)) from error
        except CollectionFull as error:
            raise JobFailed("collection_full", str(error)) from error
        except VectorsFull as error:
            raise JobFailed("vectors_full", str(error), retryable=True) from error
        except VectorsUnsupported as error:
            raise JobFailed("vectors_unsupported", str(error)) from error

    def _clip_of(self, collection: Collection) -> ClipEncoder:
        if self._clip is None or self._clip[0] != collection.model:
            self._clip = None  # first: both may be too much for the memory
            try:
                self._clip = collection.model, self._load(collection.model)
            except UnknownClip as error:
                raise JobFailed("model_not_found", f"the worker has no model {collection.model}") from error
            except (OSError, RuntimeError, ValueError) as error:
                log.exception("model failed to load", model=collection.model)
                missing = isinstance(error, WeightsMissing)
                remedy = f": {how_to_fetch(collection.model)}" if missing else ""
                raise JobFailed(
                    "model_unavailable", f"{collection.model} could not be loaded{remedy}"
                ) from error
        encoder = self._clip[1]
        if encoder.dimension != collection.dimension:
            raise JobFailed(
                "model_mismatch",
                f"the vectors of {collection.model} are no longer the collection's",
            )
        return encoder


@dataclass
class _State:
    """How far a job is; kept as its checkpoint."""

    place: Any = None  # of the last entry, in the source
    done: int = 0  # entries
    counts: dict[str, int] = field(
        default_factory=lambda: {"added": 0, "replaced": 0, "known": 0, "refused": 0}
    )
    refusals: list[dict[str, str]] = field(default_factory=list)

    def refuse(self, image_id: str, code: str, detail: str) -> None:
        self.counts["refused"] += 1
        if len(self.refusals) < MAX_REFUSALS:
            text = image_id.encode("utf-8", "replace").decode()[:1000]
            self.refusals.append({"id": text, "code": code, "detail": detail})


@dataclass(frozen=True)
class _Prepared:
    image: Image
    pixels: Pixels  # (3, R, R)


_Pending = list[tuple[Entry, Future[_Prepared] | None]]  # None: the collection has it


class _Run:
    """One attempt at one job."""

    def __init__(
        self,
        job: Job,
        folder: str,
        store: Store,
        vectors: VectorSets,
        settings: WorkerSettings,
        report: Report,
        pacing: Pacing,
    ) -> None:
        self._job, self._folder, self._store, self._vectors = job, folder, store, vectors
        self._settings, self._report, self._pacing = settings, report, pacing
        self._rate = Rate()
        self._state = self._resume()
        self._total = 0
        self._decoding = Semaphore(cores())  # a decoded image may take 120 MB

    def index(self, collection: Collection, encoder: ClipEncoder, batch: int) -> tuple[Output, ...]:
        """Add what the source has; returns the report."""
        source = open_source(self._job, self._settings, self._store)
        readers = ThreadPoolExecutor(READERS, thread_name_prefix="read")
        try:
            self._total = source.count()
            self._listen()
            for pending in self._ahead(source, collection, encoder, readers, batch):
                self._add(pending, collection, encoder)
                self._rate.add(self._state.done)
                self._pacing.after_step(self._report_progress, self._keep_checkpoint)
        finally:
            source.close()
            readers.shutdown(cancel_futures=True)
        self._total = self._state.done  # files may have come or gone
        self._report_progress()
        return (self._keep_report(),)

    def patiently(self, call: Callable[[], T]) -> T:
        """Call something of the vector Redis, again and again for a while if it is away."""
        deadline_s = time.monotonic() + self._settings.redis_patience_s
        while True:
            try:
                return call()
            except VectorsUnavailable as error:
                if time.monotonic() > deadline_s:
                    raise JobFailed("vectors_unavailable", str(error), retryable=True) from error
                log.warning("vector redis is away")
                self._listen()
                time.sleep(1)

    def _ahead(
        self,
        source: Source,
        collection: Collection,
        encoder: ClipEncoder,
        readers: ThreadPoolExecutor,
        batch: int,
    ) -> Iterator[_Pending]:
        """Batches in order; the next ones are read while one is worked on."""
        entries = source.entries(self._state.place)
        pending: deque[_Pending] = deque()
        while True:
            while len(pending) < AHEAD and (some := list(islice(entries, batch))):
                known = self._known(some, collection)
                prepare = partial(self._prepare, collection, encoder)
                pending.append(
                    [
                        (entry, None if has else readers.submit(prepare, entry))
                        for entry, has in zip(some, known, strict=True)
                    ]
                )
            if not pending:
                return
            yield pending.popleft()

    def _known(self, entries: Sequence[Entry], collection: Collection) -> list[bool]:
        if self._job.indexing.replace:
            return [False] * len(entries)
        # what is no text is no id
        ids = [entry.id.encode("utf-8", "replace").decode() for entry in entries]
        return self.patiently(partial(self._vectors.known, collection, ids))

    def _prepare(self, collection: Collection, encoder: ClipEncoder, entry: Entry) -> _Prepared:
        if not is_image_id(entry.id):
            detail = "an id has 1 to 256 printable characters, and no empty, . or .. part between slashes"
            raise EntryRefused("image_id", detail)
        content = entry.read()
        with self._decoding:
            picture = decode(content.data, self._settings.image_limits)
            pixels = encoder.preprocess(picture, exact=False)  # as the API does
            if collection.thumbnails:
                small = thumbnail_of(picture, self._settings.thumbnail_side)
                self._store.save(thumbnail_key(collection, entry.id), small)
        image = Image(entry.id, content.metadata, content.source_url, thumbnail=collection.thumbnails)
        return _Prepared(image, pixels)

    def _add(self, pending: _Pending, collection: Collection, encoder: ClipEncoder) -> None:
        """Wait for a batch, embed it and add it; then, and not before, it counts."""
        futures = [future for _, future in pending if future is not None]
        while wait(futures, timeout=0.5).not_done:
            self._listen()
        prepared: list[_Prepared] = []
        refused: list[tuple[str, str, str]] = []
        for entry, future in pending:
            try:
                if future is not None:
                    prepared.append(future.result())
            except (EntryRefused, ImageRefused) as error:
                refused.append((entry.id, error.code, str(error)))
        created: list[bool] = []
        if prepared:
            rows = encoder.encode_images(np.stack([item.pixels for item in prepared]))
            images = [item.image for item in prepared]
            settings = self._settings
            self.patiently(partial(self._vectors.check_room, settings.vector_memory_share))
            created = self.patiently(
                partial(self._vectors.add, collection, images, rows, settings.max_collection_images)
            )
        state = self._state
        state.counts["added"] += sum(created)
        state.counts["replaced"] += len(created) - sum(created)
        state.counts["known"] += len(pending) - len(futures)
        for image_id, code, detail in refused:
            state.refuse(image_id, code, detail)
        state.done += len(pending)
        state.place = pending[-1][0].place

    def _listen(self) -> None:
        """Stop here if others want that."""
        self._pacing.after_step(lambda: None, self._keep_checkpoint)

    def _report_progress(self) -> None:
        done, per_s = self._state.done, self._rate.per_s
        total = max(self._total, done)
        self._report(
            progress=Progress(
                step=done,
                steps=total,
                steps_per_s=round(per_s, 3) if per_s else None,
                eta_s=round((total - done) / per_s, 1) if per_s else None,
                counts={**self._state.counts},
            )
        )

    def _resume(self) -> _State:
        if self._job.checkpoint is None:
            return _State()
        try:
            return _State(**json.loads(self._store.read(self._job.checkpoint)))
        except (KeyMissing, ValueError, TypeError):
            log.warning("checkpoint unreadable, starting over", key=self._job.checkpoint)
            return _State()  # what is there already is known, and so not added twice

    def _keep_checkpoint(self) -> None:
        key = f"{self._folder}/{CHECKPOINT}"
        self._store.save(key, json.dumps(asdict(self._state)).encode())
        self._report(checkpoint=key)

    def _keep_report(self) -> Output:
        key = f"{self._folder}/{REPORT}"
        told = {
            "collection": self._job.indexing.collection,
            **self._state.counts,
            "refusals": self._state.refusals,
        }
        self._store.save(key, json.dumps(told, ensure_ascii=False, indent=1).encode())
        return Output(REPORT, key, "application/json", kind="report")
