"""Where RQ meets our jobs: a warm worker in one process, every pop atomic, SIGTERM hands the job back.

RQ brings a ticket for each job that waits and nothing else; what it knows of a job's end is not asked. The
names overridden here are insides of RQ 3.0; `test_rq_worker.py` holds them to what we rely on.
"""

import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

import redis
import structlog
from rq.exceptions import DequeueTimeout
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker

log = structlog.get_logger(__name__)

BLOCK_S = 1.0  # shorter than any timeout of the socket; then the queues that are not blocked on are looked at


class FunctionNotAllowed(LookupError):
    """A job on the queue names a function that workers do not run."""


class AtomicQueue(Queue):  # type: ignore[misc]
    """Blocks on the first queue by BLMOVE, and looks at the others.

    RQ uses BLPOP on several queues: a worker that is killed then loses the ticket.
    """

    @classmethod
    def dequeue_any(
        cls, queues: Iterable[Queue], timeout: int | None, connection: redis.Redis, **kwargs: Any
    ) -> tuple[Job, Queue] | None:
        first, *others = [queue.key for queue in queues]
        left_s = float(timeout or 0)
        while True:
            key, popped = cls._pop(connection, first, others, min(left_s, BLOCK_S))
            if popped is not None:
                found = cls._fetch_dequeued_job(connection, key, popped.decode(), **kwargs)
                if found is not None:
                    return found  # type: ignore[no-any-return]
                connection.lrem(IntermediateQueue.get_intermediate_queue_key(key), 1, popped)
            elif timeout is None:
                return None
            elif (left_s := left_s - BLOCK_S) <= 0:
                raise DequeueTimeout(timeout, [first, *others])

    @classmethod
    def _pop(
        cls, connection: redis.Redis, first: str, others: Sequence[str], block_s: float
    ) -> tuple[str, bytes | None]:
        for key in (*others, first):
            popped = connection.lmove(key, IntermediateQueue.get_intermediate_queue_key(key))
            if popped is not None:
                return key, popped
        if block_s == 0:  # which BLMOVE takes for ever
            return first, None
        return first, connection.blmove(first, IntermediateQueue.get_intermediate_queue_key(first), block_s)


def allowing(functions: Mapping[str, Callable[..., Any]]) -> type[Job]:
    """RQ's job, but for what it runs: these functions by these names, never one it would import by name."""

    class AllowedJob(Job):  # type: ignore[misc]
        @property
        def func(self) -> Callable[..., Any]:
            try:
                return functions[self.func_name]
            except KeyError:
                raise FunctionNotAllowed(self.func_name) from None

    return AllowedJob


class WarmWorker(SimpleWorker):  # type: ignore[misc]
    """Runs jobs in this process, on models loaded once: RQ's usual worker forks, and CUDA dies of that.

    Args:
        queues: names of RQ's queues, the most urgent first.
        drain: set by SIGTERM, so that the running job stops after its step.
        longest_job_s: RQ's own records of a running job are kept for so long; RQ trips over one that is gone.
    """

    queue_class = AtomicQueue

    def __init__(
        self,
        connection: redis.Redis,
        name: str,
        *,
        queues: Sequence[str],
        functions: Mapping[str, Callable[..., Any]],
        drain: threading.Event,
        longest_job_s: float,
    ) -> None:
        self._drain, self._longest_job_s = drain, longest_job_s
        super().__init__(
            [AtomicQueue(queue, connection=connection, serializer=JSONSerializer) for queue in queues],
            name=name,
            connection=connection,
            serializer=JSONSerializer,
            job_class=allowing(functions),
            queue_class=AtomicQueue,
            worker_ttl=20,  # wakes every 5 s
            log_job_description=False,
        )

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        return round(self._longest_job_s)

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        super().prepare_job_execution(job, remove_from_intermediate_queue=True)

    def handle_warm_shutdown_request(self) -> None:
        log.info("asked to stop")
        self._drain.set()

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        # RQ would raise inside the job; it is on its way out already, and SIGKILL is there for what hangs
        log.info("already stopping", signal=signal.Signals(signum).name)
