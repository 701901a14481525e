"""Webhooks from end to end: asked for over HTTP, drawn by a worker, told by a sender; each is a process."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from standardwebhooks import Webhook as Verifier

from tests.support.redis_server import RedisServer
from tests.support.service import Service
from tests.support.webhooks import SECRET, Receiver

pytestmark = pytest.mark.timeout(180)

QUICK = {"generator": "gradient", "width": 32, "height": 32, "steps": 5}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with closing(Receiver()) as receiver:
        yield receiver


@pytest.fixture
def telling(redis_server: RedisServer, tmp_path: Path, receiver: Receiver) -> Iterator[Service]:
    """API, worker and sender, which may call this machine."""
    service = Service(
        redis_server,
        tmp_path,
        CLIPCANVAS_WEBHOOK_SECRETS=json.dumps([SECRET]),
        CLIPCANVAS_WEBHOOK_PORTS=json.dumps([receiver.port]),
        CLIPCANVAS_WEBHOOK_ALLOW_HTTP="1",
        CLIPCANVAS_WEBHOOK_ALLOW_PRIVATE="1",
    )
    service.start("app")
    service.start("workers", "webhooks")
    service.worker()
    service.wait_until(service.alive)
    yield service
    service.stop()


def test_a_receiver_hears_of_a_image_and_can_fetch_it(telling: Service, receiver: Receiver) -> None:
    with telling.client() as client:
        job = client.create_job("a fox", webhook={"url": receiver.url}, **QUICK)
        [request] = receiver.wait_for(1, seconds=60)
        told = Verifier(SECRET).verify(request.body, request.headers)
        assert (told["type"], told["data"]["id"]) == ("job.succeeded", job.id)
        shown = client.job(job.id).model_dump(mode="json")
        assert {name: shown[name] for name in told["data"]} == told["data"]
        assert client.output(job.id, told["data"]["outputs"][0]["name"]).startswith(b"\x89PNG")


def test_a_receiver_that_sleeps_holds_up_no_drawing(telling: Service, receiver: Receiver) -> None:
    receiver.answer = receiver.say(200, after_s=60)
    with telling.client() as client:
        assert (
            client.draw("a fox", timeout_s=60, webhook={"url": receiver.url}, **QUICK).status == "succeeded"
        )
        receiver.wait_for(1, seconds=30)
        jobs = [
            client.create_job("a fox", webhook={"url": receiver.url, "events": ["job.started"]}, **QUICK)
            for _ in range(10)
        ]
        ended = [client.wait(job.id, timeout_s=10).status for job in jobs]
    assert ended == ["succeeded"] * 10
    assert len(receiver.requests) == 2, "the others wait for it, in the outbox"
