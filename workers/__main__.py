"""`python -m workers`: a worker that draws; with `indexer`, `janitor` or `webhooks`: one that does that."""

import argparse
import asyncio
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import redis
import structlog
from rq.exceptions import StopRequested

from jobs import logs
from jobs.queue import RUN_JOB
from jobs.record.priorities import JobType, queue_names
from models import generators
from models.networks.shared_networks import Networks
from models.requests.generator import Generate
from models.runtime.machine import keep_freed_memory
from storage.blobs import open_store
from storage.redis import connect, connect_rq
from workers.drawing.outputs import versions
from workers.drawing.task import DrawingContext, DrawingWork
from workers.indexing.task import Indexing
from workers.janitor import Janitor
from workers.runner.attempt import HARD_GRACE_S, Attempts
from workers.runner.concurrent import run_job_of
from workers.runner.heartbeat import Heartbeat
from workers.runner.rq_worker import WarmWorker
from workers.settings import WorkerSettings
from workers.webhooks import WebhookSender

log = structlog.get_logger("workers")

LOAD_FAILED = 4


def main() -> int:
    """Run until SIGTERM; the exit code is 0 then, and 4 if the models could not be loaded."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    parser.add_argument(
        "role", nargs="?", choices=("worker", "indexer", "janitor", "webhooks"), default="worker"
    )
    role = parser.parse_args().role
    # OpenMP reads this as torch is imported: threads that spin while they wait starve the API on these cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logs.configure()
    settings = WorkerSettings()
    match role:
        case "janitor":
            return sweep(settings)
        case "webhooks":
            return asyncio.run(send(settings))
        case "indexer":
            return index(settings)
        case _:
            return draw(settings)


def sweep(settings: WorkerSettings) -> int:
    """Be a janitor."""
    stop = threading.Event()

    def request_stop(signum: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, request_stop)
    Janitor(settings, open_store(settings.store), stop).run()
    return 0


async def send(settings: WorkerSettings) -> int:
    """Be a webhook sender."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await WebhookSender(settings, stop).run()
    return 0


def draw(settings: WorkerSettings) -> int:
    """Be a worker."""
    if settings.compile_sizes:  # torch reads it as it is imported
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.compile_cache))
    keep_freed_memory(one_heap=settings.jobs_at_once > 1)
    name = _name()
    heartbeat = Heartbeat(
        connect(settings.redis_url, patience_s=0.5),
        name,
        period_s=settings.heartbeat_s,
        details={
            "type": "draw",
            "device": settings.device,
            "vqgan": settings.vqgan,
            "guides": ", ".join(settings.guides),
        },
    )
    heartbeat.start()
    try:
        loaded = _load(settings)
    except Exception as error:
        log.exception("models could not be loaded")
        heartbeat.show("failed", reason=f"{type(error).__name__}: {error}")
        time.sleep(settings.heartbeat_s)  # long enough to be seen; whoever started us starts us again
        return LOAD_FAILED
    drain = threading.Event()
    about = {**versions(), "vqgan": settings.vqgan, "guides": ", ".join(settings.guides)[:512]}
    about |= {"min_dalle": settings.min_dalle} if "min_dalle" in settings.generators else {}
    about |= {"unclip": ", ".join(settings.unclip)[:512]} if "unclip" in settings.generators else {}
    context = DrawingContext(loaded, open_store(settings.store), about)
    work = DrawingWork(settings, context)
    heartbeat.show("idle", memory=work.memory)
    attempts = Attempts(settings, work, heartbeat, name, drain)
    _serve(settings, name, work.type, run_job_of(settings, attempts, work, drain), drain)
    heartbeat.stop()
    return 0


def index(settings: WorkerSettings) -> int:
    """Be a worker that indexes. Its CLIP is loaded for the first job: until then it needs no torch."""
    name = _name()
    heartbeat = Heartbeat(
        connect(settings.redis_url, patience_s=0.5),
        name,
        period_s=settings.heartbeat_s,
        details={"type": "index", "device": settings.device},
    )
    heartbeat.start()
    drain = threading.Event()
    work = Indexing(settings, open_store(settings.store))
    heartbeat.show("idle")
    _serve(settings, name, work.type, Attempts(settings, work, heartbeat, name, drain).run_job, drain)
    heartbeat.stop()
    return 0


def _name() -> str:
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    structlog.contextvars.bind_contextvars(worker=name)
    return name


def _serve(
    settings: WorkerSettings,
    name: str,
    job_type: JobType,
    run_job: Callable[[str], None],
    drain: threading.Event,
) -> None:
    """RQ's loop ends when Redis refuses a write; until we are asked to stop, another one begins."""
    while not drain.is_set():
        worker = WarmWorker(
            connect_rq(settings.redis_url, patience_s=settings.redis_patience_s),
            f"{name}-{secrets.token_hex(2)}",  # RQ takes no name twice
            queues=queue_names(job_type),
            functions={RUN_JOB: run_job},
            drain=drain,
            longest_job_s=settings.longest_run_s(job_type) + 2 * HARD_GRACE_S,
        )
        try:
            worker.work(logging_level="WARNING")
        except (redis.RedisError, StopRequested) as error:
            log.warning("the loop broke off", error=type(error).__name__)
        drain.wait(1)


def _load(settings: WorkerSettings) -> dict[str, Generate]:
    if settings.threads:
        import torch

        torch.set_num_threads(settings.threads)
    networks = Networks(
        settings.network_names,
        joined=1 if settings.deterministic else settings.jobs_at_once,
        compiled=bool(settings.compile_sizes),
        graphs=settings.cuda_graphs,
    )
    started_s = time.monotonic()
    loaded = {name: generators.find(name).load(networks) for name in settings.generators}
    networks.held_out()
    log.info("models loaded", generators=list(loaded), seconds=round(time.monotonic() - started_s, 1))
    if settings.compile_sizes:
        from workers.drawing.precompile import compile_steps

        compile_steps(networks, loaded, settings.compile_sizes)
    return loaded


if __name__ == "__main__":
    sys.exit(main())
