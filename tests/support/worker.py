"""Workers in a thread of the test's process, with generators that tests can look into."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jobs.queue import RUN_JOB, JobQueue, NewJob, new_id
from jobs.record.priorities import queue_names
from jobs.record.record import Job
from models.generators import gradient
from models.requests import generator as generators
from models.requests.generator import Generate, Step
from models.requests.request import GenerationRequest, Prompt
from storage.blobs import Store, open_store
from storage.redis import connect, connect_rq
from tests.support.live_api import LiveApi, TinyClip
from workers.drawing.task import DrawingContext, DrawingWork
from workers.indexing.task import Indexing
from workers.runner.attempt import Attempts
from workers.runner.concurrent import run_job_of
from workers.runner.heartbeat import Heartbeat
from workers.runner.rq_worker import WarmWorker
from workers.settings import WorkerSettings

REQUEST = GenerationRequest(
    generator="gradient",
    prompts=(Prompt(text="a fox"),),
    width=16,
    height=16,
    steps=6,
    seed=1,
    options={"delay_s": 0.0},
)
SLOW = REQUEST.model_copy(update={"steps": 400, "options": {"delay_s": 0.02}})


class Worker:
    """A worker as `python -m workers` makes it, but for its generator; it ends when the queue is empty."""

    def __init__(
        self, settings: WorkerSettings, generator: Generate | None = None, store: Store | None = None
    ):
        self.drain = threading.Event()
        self.heartbeat = Heartbeat(
            connect(settings.redis_url, patience_s=0.5), "w", period_s=settings.heartbeat_s, details={}
        )
        context = DrawingContext(
            {"gradient": generator or gradient.generate},  # type: ignore[arg-type]
            open_store(settings.store),
        )
        work = DrawingWork(settings, context)
        self.attempts = Attempts(settings, work, self.heartbeat, "w", self.drain)
        self.run_job = run_job_of(settings, self.attempts, work, self.drain)
        self.rq = WarmWorker(
            connect_rq(settings.redis_url, patience_s=5),
            new_id(),
            queues=queue_names("draw"),
            functions={RUN_JOB: self.run_job},
            drain=self.drain,
            longest_job_s=settings.run_timeout_s,
        )

    def work(self) -> None:
        self.heartbeat.start()
        self.rq.work(burst=True, logging_level="WARNING")
        self.heartbeat.stop()


class Generates:
    """A generator that does what a function of the step says."""

    def __init__(self, act: Callable[[int], None]) -> None:
        self.act = act

    def __call__(self, drawing: generators.Drawing) -> Iterator[Step]:
        for step in gradient.generate(drawing):
            self.act(step.index)
            yield step


def create(queue: JobQueue, request: GenerationRequest = REQUEST, **fields: Any) -> str:
    new = NewJob(id=new_id(), request=request, **fields)
    assert queue.create(new) is None
    return new.id


def wait_for(queue: JobQueue, job_id: str, promise: Callable[[Job], bool], seconds: float = 10) -> Job:
    deadline = time.monotonic() + seconds
    while not promise(job := queue.get(job_id)):
        assert time.monotonic() < deadline, job
        time.sleep(0.01)
    return job


def in_thread(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


class Indexer:
    """A worker as `python -m workers indexer` makes it, but for its CLIP; it ends when its line is empty."""

    def __init__(self, api: LiveApi, clip: TinyClip | None = None, **settings: Any) -> None:
        shared = {
            name: getattr(api.settings, name)
            for name in WorkerSettings.model_fields
            if hasattr(api.settings, name)
        }
        self.settings = WorkerSettings(
            **{
                **shared,
                "heartbeat_s": 0.1,
                "progress_every_s": 0.01,
                "checkpoint_every_s": 0.01,
                "redis_patience_s": 5,
                **settings,
            }
        )
        self.clip = clip or TinyClip()
        self.drain = threading.Event()
        redis_url = self.settings.redis_url
        self.heartbeat = Heartbeat(connect(redis_url, patience_s=0.5), "w", period_s=0.1, details={})
        work = Indexing(self.settings, open_store(self.settings.store), lambda name: self.clip)
        self.attempts = Attempts(self.settings, work, self.heartbeat, "w", self.drain)
        self.rq = WarmWorker(
            connect_rq(redis_url, patience_s=5),
            new_id(),
            queues=queue_names("index"),
            functions={RUN_JOB: self.attempts.run_job},
            drain=self.drain,
            longest_job_s=60,
        )

    def work(self) -> None:
        self.heartbeat.start()
        self.rq.work(burst=True, logging_level="WARNING")
        self.heartbeat.stop()
