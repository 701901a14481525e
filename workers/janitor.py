"""The janitor: puts right what others left, so that nothing depends on a free worker. Holds no torch.

One of several leads, by a lock in Redis; each sweep is safe to be done twice all the same.
"""

import contextlib
import secrets
import threading
import time

import redis
import structlog
from rq.intermediate_queue import IntermediateQueue
from rq.queue import Queue

from jobs.queue import JobQueue
from jobs.record.priorities import TYPES, JobType, first_rank, queue_names
from jobs.record.record import JobMissing, Status, call, key
from storage.blobs import Store, StoreUnavailable
from storage.collections.collection import FOLDER_PREFIX
from storage.collections.vector_sets import VectorSets, VectorsUnavailable
from storage.redis import connect, connect_rq
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)

SHORT_S = 5  # a create that is still under way is left alone, and a worker between its ticket and its job
POPPED_S = 5  # likewise
UNTIDY_S = 5  # the worker that ended the job does it itself
ORPHAN_S = 3600  # a folder without a record may be of a create that is still under way
ORPHANS_EVERY_S = 600
LOCK_S = 10


class Janitor:
    """Sweeps every `sweep_every_s` seconds until `stop` is set."""

    def __init__(self, settings: WorkerSettings, store: Store, stop: threading.Event) -> None:
        self._settings, self._store, self._stop = settings, store, stop
        self._redis = connect(settings.redis_url, patience_s=1)
        self._rq = connect_rq(settings.redis_url, patience_s=1)
        self._queue = JobQueue(settings)
        self._vectors = VectorSets(settings.vectors_url)
        self._token = secrets.token_hex(8)
        self._popped: dict[tuple[str, bytes], float] = {}
        self._short_s: dict[JobType, float] = {}  # since when a line has fewer tickets than jobs
        self._orphans_s = float("-inf")
        self._met_s = self._trusts_s = time.monotonic()

    def run(self) -> None:
        """Sweep until told to stop. A Redis or a store that is gone is waited for."""
        while not self._stop.is_set():
            try:
                leads = self._leads()
                self._meet()
                if leads:
                    self.sweep()
            except (redis.RedisError, StoreUnavailable) as error:
                log.warning("sweep broke off", error=type(error).__name__)
            self._stop.wait(self._settings.sweep_every_s)
        self._abdicate()

    def sweep(self) -> None:
        """One round of everything."""
        self._recover_lost()
        self._expire_late()
        self._put_back_popped()
        for job_type in TYPES:
            self._replace_tickets(job_type)
        self._tidy()
        self._forget_old()
        if time.monotonic() - self._orphans_s > ORPHANS_EVERY_S:
            self._orphans_s = time.monotonic()
            self._delete_orphans()

    def _meet(self) -> None:
        """While Redis was away nobody could renew a lease: what ran out then has the time of one more."""
        now_s = time.monotonic()
        if now_s - self._met_s > max(self._settings.lease_s / 2, 2 * self._settings.sweep_every_s):
            self._trusts_s = now_s + self._settings.lease_s
        self._met_s = now_s

    def _leads(self) -> bool:
        lock = key("janitor")
        if self._redis.set(lock, self._token, nx=True, ex=LOCK_S):
            log.info("leading")
            return True
        if self._redis.get(lock) != self._token:
            return False
        return bool(self._redis.expire(lock, LOCK_S))

    def _abdicate(self) -> None:
        try:
            if self._redis.get(key("janitor")) == self._token:
                self._redis.delete(key("janitor"))
        except redis.RedisError:
            return  # the lock runs out by itself

    def _recover_lost(self) -> None:
        if time.monotonic() < self._trusts_s:
            return
        told = call(self._redis, "recover_lost")
        for job_id, status in zip(told[::2], told[1::2], strict=True):
            log.warning("lease ran out", job_id=job_id, now=status)
            if status == Status.QUEUED:
                with contextlib.suppress(JobMissing):  # deleted meanwhile
                    self._queue.dispatch(job_id, self._queue.get(job_id).type)

    def _expire_late(self) -> None:
        for job_id in call(self._redis, "expire_late"):
            log.info("not started in time", job_id=job_id)

    def _replace_tickets(self, job_type: JobType) -> None:
        # RQ needs a ticket for each job that waits; one is missing if the API died before it brought it, or a
        # worker after it took it
        queues = [Queue(name, connection=self._rq) for name in queue_names(job_type)]
        lists = [part for queue in queues for part in (queue.key, queue.intermediate_queue_key)]
        waiting = call(self._redis, "waiting", first_rank=first_rank(job_type))
        missing = waiting - sum(self._rq.llen(name) for name in lists)
        if missing <= 0:
            self._short_s.pop(job_type, None)
            return
        now_s = time.monotonic()
        if now_s - self._short_s.setdefault(job_type, now_s) < SHORT_S:
            return
        log.warning("tickets are missing", missing=missing, type=job_type)
        for job_id in call(self._redis, "first_waiting", first_rank=first_rank(job_type), count=missing):
            self._queue.dispatch(job_id, job_type)
        del self._short_s[job_type]

    def _put_back_popped(self) -> None:
        # what a worker popped and died with before it started it
        seen: dict[tuple[str, bytes], float] = {}
        for name in (name for job_type in TYPES for name in queue_names(job_type)):
            queue = Queue(name, connection=self._rq)
            popped = IntermediateQueue.get_intermediate_queue_key(queue.key)
            for rq_id in self._rq.lrange(popped, 0, -1):
                since_s = self._popped.get((name, rq_id), time.monotonic())
                if time.monotonic() - since_s < POPPED_S:
                    seen[name, rq_id] = since_s
                    continue
                log.warning("popped and not started", rq_id=rq_id.decode())
                with self._rq.pipeline(transaction=True) as pipe:
                    pipe.lrem(popped, 1, rq_id)
                    pipe.lpush(queue.key, rq_id)
                    pipe.execute()
        self._popped = seen

    def _tidy(self) -> None:
        # after a worker that died between the end of its job and this, or a job that no worker ended
        for job_id in self._queue.untidy(UNTIDY_S):
            with contextlib.suppress(JobMissing):  # deleted meanwhile, files and all
                self._queue.tidy(job_id, self._store)
                log.info("job tidied", job_id=job_id)

    def _forget_old(self) -> None:
        told = call(self._redis, "forgettable")
        for job_id, tenant in zip(told[::2], told[1::2], strict=True):
            self._store.delete(job_id)  # first the files: a record without them can be swept again
            call(self._redis, "delete", id=job_id, tenant=tenant)
            log.info("job forgotten", job_id=job_id)

    def _delete_orphans(self) -> None:
        found = [folder for folder, changed_s in self._store.folders() if time.time() - changed_s > ORPHAN_S]
        thumbnails = {folder for folder in found if folder.startswith(FOLDER_PREFIX)}
        orphans = {folder for folder in found if not self._redis.exists(key("job", folder))} - thumbnails
        if thumbnails:
            try:
                orphans |= thumbnails - self._vectors.folders()
            except VectorsUnavailable:
                log.warning("thumbnails left alone", error="VectorsUnavailable")
        for folder in sorted(orphans):
            log.info("orphan deleted", folder=folder)
            self._store.delete(folder)
