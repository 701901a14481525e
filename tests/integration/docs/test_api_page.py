"""`docs/api.md` tells the truth: its requests are sent, and its answers are what comes back."""

import itertools
import json
import re
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from PIL import Image

from jobs.queue import RUN_JOB, new_id
from jobs.record.priorities import queue_names
from models.generators import gradient
from storage.blobs import open_store
from storage.redis import connect, connect_rq
from tests.support.images import b64, png
from tests.support.live_api import LiveApi
from tests.support.redis_server import RedisServer
from workers.drawing.task import DrawingContext, DrawingWork
from workers.indexing.task import Indexing
from workers.runner.attempt import Attempts
from workers.runner.heartbeat import Heartbeat
from workers.runner.rq_worker import WarmWorker
from workers.settings import WorkerSettings

PAGE = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"```(http|python)\n(.*?)```", PAGE, re.DOTALL)
EXCHANGES = [
    (request, answer)
    for (_, request), (_, answer) in itertools.pairwise(BLOCKS)
    if answer.startswith("HTTP/1.1") and not request.startswith("HTTP/1.1")
]


def test_every_request_has_its_answer() -> None:
    requests = [text for kind, text in BLOCKS if kind == "http" and not text.startswith("HTTP/1.1")]
    assert len(requests) == len(EXCHANGES) > 12


def test_the_page_tells_the_truth(demo_api: LiveApi, redis_server: RedisServer) -> None:
    cat = b64(png(Image.fromarray(skimage.data.chelsea()), "JPEG"))
    job_id = delivery_id = ""
    for request, answer in EXCHANGES:
        told = f"{request}\n{answer}"
        known = {"<id>": job_id, "<cat.jpg>": cat, "<delivery>": delivery_id}
        head, _, body = fill(request, known).partition("\n\n")
        (method, path), headers = head.splitlines()[0].split(), head.splitlines()[1:]
        send = partial(
            demo_api.http.request,
            method,
            path,
            headers=[tuple(line.split(": ", 1)) for line in headers],
            content=body.encode(),
        )
        with ThreadPoolExecutor(1) as elsewhere:
            sent = elsewhere.submit(send)
            if path.startswith("/v1/images") or any(line.startswith("Prefer: wait") for line in headers):
                work(redis_server, demo_api)  # in this thread, as RQ wants the main one
            response = sent.result(60)
        if response.headers.get("location"):
            job_id = response.json()["id"]
        if path.endswith("/webhook-deliveries"):
            delivery_id = response.json()["data"][0]["id"]
        head, _, body = fill(answer, {"<id>": job_id, "<delivery>": delivery_id}).partition("\n\n")
        status, *headers = head.splitlines()
        assert f"HTTP/1.1 {response.status_code}" == status, f"{told}\n{response.text}"
        for line in headers:
            name, value = line.split(": ", 1)
            assert name.lower() in response.headers, told
            assert value in ("…", response.headers[name]), told
        if not body.strip():
            continue
        if (
            response.headers["content-type"].endswith("/json")
            or "problem" in response.headers["content-type"]
        ):
            compare(json.loads(body), response.json(), "#")
        else:
            pattern = ".*".join(re.escape(part) for part in body.strip().split("…"))
            assert re.match(pattern, response.text.strip(), re.DOTALL), f"{told}\n{response.text}"


def test_the_python_on_the_page_runs(demo_api: LiveApi, capsys: pytest.CaptureFixture[str]) -> None:
    [program] = [text for kind, text in BLOCKS if kind == "python"]
    exec(textwrap.dedent(program).replace("http://127.0.0.1:8000", demo_api.url), {})
    assert capsys.readouterr().out.strip() == "640"


def fill(text: str, known: dict[str, str]) -> str:
    for mark, value in known.items():
        text = text.replace(mark, value)
    return text


def compare(told: Any, said: Any, place: str) -> None:
    """Numbers with a fraction may differ in the second place: they come from another machine."""
    if told == "…":
        return
    if isinstance(told, dict):
        assert isinstance(said, dict)
        assert set(told) == set(said), place
        for name, value in told.items():
            compare(value, said[name], f"{place}/{name}")
    elif isinstance(told, list):
        assert len(told) == len(said), place
        for index, (one, other) in enumerate(zip(told, said, strict=True)):
            compare(one, other, f"{place}/{index}")
    elif isinstance(told, float):
        assert said == pytest.approx(told, abs=0.02), place
    else:
        assert said == told, place


def work(redis: RedisServer, api: LiveApi) -> None:
    """A worker that takes what waits."""
    settings = WorkerSettings(
        redis_url=redis.url,
        store=api.settings.store,
        index_roots=api.settings.index_roots,
        progress_every_s=0.01,
    )
    drain = threading.Event()
    heartbeat = Heartbeat(connect(settings.redis_url, patience_s=1), "w", period_s=1, details={})
    store = open_store(settings.store)
    context = DrawingContext({"gradient": gradient.load(None)}, store)  # type: ignore[arg-type]
    time.sleep(0.3)  # the client is waiting by now
    for does in (DrawingWork(settings, context), Indexing(settings, store)):
        worker = WarmWorker(
            connect_rq(settings.redis_url, patience_s=5),
            new_id(),
            queues=queue_names(does.type),
            functions={RUN_JOB: Attempts(settings, does, heartbeat, "w", drain).run_job},
            drain=drain,
            longest_job_s=60,
        )
        worker.work(burst=True, logging_level="WARNING")
