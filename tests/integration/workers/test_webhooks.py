"""Webhooks are told, by signed requests, what happened to a job: at least once, harming nobody on the way."""

import asyncio
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from standardwebhooks import Webhook as Verifier

from jobs.queue import JobQueue, NewJob, new_id
from jobs.record.lease import Lease
from jobs.record.outbox import Delivery, DeliveryMissing, Outbox, Outcome
from jobs.record.record import JobError, JobMissing, Progress, Status, Webhook, call, key
from models.requests.request import GenerationRequest, Prompt
from storage.net.safe_http import CheckedNetwork
from storage.redis import connect
from tests.support.redis_server import RedisServer
from tests.support.webhooks import SECRET, Receiver, wait_until
from workers.settings import WorkerSettings
from workers.webhooks import WebhookSender

REQUEST = GenerationRequest(
    generator="gradient", prompts=(Prompt(text="a fox"),), width=16, height=16, steps=5, seed=1
)
ALL = ("job.started", "job.succeeded", "job.failed", "job.canceled", "job.expired")


def settle(connection: Any, delivery: str, token: str) -> int:
    """The receiver took it."""
    ended = {"state": "delivered", "status": 200, "error": "", "wait_ms": 0}
    return int(call(connection, "settle", id=delivery, token=token, **ended))


@pytest.fixture
def settings(redis_server: RedisServer) -> WorkerSettings:
    return WorkerSettings(
        redis_url=redis_server.url,
        webhook_secrets=(SECRET,),
        webhook_ports=tuple(range(1024, 65536)),
        webhook_allow_http=True,
        webhook_allow_private=True,
        webhook_timeout_s=5,
        webhook_backoff_s=(0, 0.3, 0.3, 0.3),
    )


@pytest.fixture
def queue(settings: WorkerSettings) -> JobQueue:
    return JobQueue(settings)


@pytest.fixture
def outbox(settings: WorkerSettings) -> Outbox:
    return Outbox(connect(settings.redis_url, patience_s=1))


@pytest.fixture
def start_receiver() -> Iterator[Callable[[], Receiver]]:
    with ExitStack() as stack:

        def start() -> Receiver:
            receiver = Receiver()
            stack.callback(receiver.close)
            return receiver

        yield start


@pytest.fixture
def receiver(start_receiver: Callable[[], Receiver]) -> Receiver:
    return start_receiver()


@contextmanager
def sending(
    settings: WorkerSettings, network: CheckedNetwork | None = None, **changes: Any
) -> Iterator[None]:
    """A sender at work, as `python -m workers webhooks` makes it."""
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        await WebhookSender(settings.model_copy(update=changes), stop, network).run()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    wait_until(lambda: bool(loops))
    try:
        yield
    finally:
        loops[0][0].call_soon_threadsafe(loops[0][1].set)
        thread.join(20)
        assert not thread.is_alive()


def create(queue: JobQueue, receiver: Receiver, events: tuple[str, ...] = ALL, **fields: Any) -> str:
    webhook = Webhook(receiver.url, events, f"127.0.0.1:{receiver.port}")
    new = NewJob(id=new_id(), request=REQUEST, webhook=webhook, **fields)
    assert queue.create(new) is None
    return new.id


def start(settings: WorkerSettings, job_id: str) -> Lease:
    lease = Lease.start(connect(settings.redis_url, patience_s=1), job_id, "w", 30)
    assert isinstance(lease, Lease), lease
    return lease


def cancel(queue: JobQueue, receiver: Receiver) -> str:
    """The quickest way to an event: a job that is canceled before it starts."""
    job_id = create(queue, receiver)
    queue.cancel(job_id, "")
    return job_id


def only(outbox: Outbox, job_id: str) -> Delivery:
    [delivery] = outbox.deliveries(job_id, "")
    return delivery


def settled(outbox: Outbox, job_id: str) -> Delivery:
    wait_until(lambda: only(outbox, job_id).state != "pending")
    return only(outbox, job_id)


def test_a_receiver_hears_of_start_and_end_and_can_verify_both(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver
) -> None:
    with sending(settings):
        job_id = create(queue, receiver, metadata={"order": "ÄÖ7"})
        lease = start(settings, job_id)
        lease.report(progress=Progress(1, 5))
        receiver.wait_for(1)
        lease.finish(Status.SUCCEEDED)
        began, ended = receiver.wait_for(2)
    for request in (began, ended):
        told = Verifier(SECRET).verify(request.body, request.headers)
        assert (told["data"]["id"], told["data"]["metadata"]) == (job_id, {"order": "ÄÖ7"})
        assert "request" not in told["data"]
        assert request.path == "/hooks?token=1"
        assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
        assert request.headers["content-type"] == "application/json"
    assert [json.loads(each.body)["type"] for each in (began, ended)] == ["job.started", "job.succeeded"]
    assert [json.loads(each.body)["data"]["status"] for each in (began, ended)] == ["running", "succeeded"]
    told = [(each.id, each.event, each.state, each.attempts) for each in outbox.deliveries(job_id, "")]
    assert told == [
        (began.id, "job.started", "delivered", 1),
        (ended.id, "job.succeeded", "delivered", 1),
    ]


def test_every_end_is_told_and_only_what_was_asked_for(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver
) -> None:
    def events(job_id: str) -> list[str]:
        return [delivery.event for delivery in outbox.deliveries(job_id, "")]

    failed, lost, handed, late, quiet = (
        create(queue, receiver),
        create(queue, receiver),
        create(queue, receiver),
        create(queue, receiver, start_timeout_s=0.01),
        create(queue, receiver, events=("job.failed",)),
    )
    start(settings, failed).finish(Status.FAILED, error=JobError("internal", "x"))
    assert events(failed) == ["job.started", "job.failed"]
    for _ in range(settings.max_attempts):
        lease = start(settings, lost)
        lease.connection.zadd(key("running"), {lost: 1})
        call(lease.connection, "recover_lost")
    assert events(lost) == ["job.started", "job.failed"], "a second start is no event"
    lease = start(settings, handed)
    queue.cancel(handed, "")
    lease.hand_back()
    assert events(handed) == ["job.started", "job.canceled"]
    time.sleep(0.02)
    assert call(lease.connection, "expire_late") == [late]
    assert events(late) == ["job.expired"]
    start(settings, quiet).finish(Status.SUCCEEDED)
    assert events(quiet) == []


def test_a_call_whose_reply_was_lost_writes_no_second_delivery(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver
) -> None:
    job_id = create(queue, receiver)
    connection = connect(settings.redis_url, patience_s=1)
    for _ in range(2):
        assert call(connection, "start", id=job_id, token="token", worker="w", lease_ms=30_000) == 1
    lease = Lease(connection, job_id, "token", 1, 30)
    for _ in range(2):
        lease.finish(Status.SUCCEEDED)
    began, ended = outbox.deliveries(job_id, "")
    assert (began.event, ended.event, began.id != ended.id) == ("job.started", "job.succeeded", True)
    first = call(connection, "claim", token="c", count=10, visible_ms=30_000)
    assert first == call(connection, "claim", token="c", count=10, visible_ms=30_000) == [began.id, ended.id]
    assert [each.attempts for each in outbox.deliveries(job_id, "")] == [1, 1]
    for _ in range(2):
        assert settle(connection, began.id, "c") == 1
    assert settle(connection, ended.id, "other") == 0
    for _ in range(2):
        assert call(connection, "redeliver", id=job_id, delivery=began.id, token="r") == 1
    assert call(connection, "claim", token="d", count=10, visible_ms=30_000) == [began.id]
    assert settle(connection, began.id, "d") == 1
    assert call(connection, "redeliver", id=job_id, delivery=began.id, token="r") == 1
    assert outbox.deliveries(job_id, "")[0].state == "delivered"


def test_a_receiver_that_fails_is_told_again_under_the_same_id(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver
) -> None:
    receiver.answer = receiver.say(500, 200)
    with sending(settings):
        job_id = cancel(queue, receiver)
        first, second = receiver.wait_for(2)
        delivery = settled(outbox, job_id)
    assert (first.id, first.body) == (second.id, second.body)
    assert 0.2 < second.at_s - first.at_s < 3
    Verifier(SECRET).verify(second.body, second.headers)
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 2, 200)
    assert delivery.next_at is None


def test_it_is_given_up_when_the_schedule_ends(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver
) -> None:
    receiver.answer = receiver.say(500)
    with sending(settings):
        delivery = settled(outbox, cancel(queue, receiver))
    assert len(receiver.requests) == len(settings.webhook_backoff_s)
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("failed", 4, 500)
    assert delivery.last_error == "the receiver refused it"


def test_a_redirect_is_not_followed(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, start_receiver: Callable[[], Receiver]
) -> None:
    receiver, inside = start_receiver(), start_receiver()
    receiver.answer = receiver.say(302, location=inside.url)
    with sending(settings, webhook_backoff_s=(0,)):
        delivery = settled(outbox, cancel(queue, receiver))
    assert (delivery.state, delivery.last_status) == ("failed", 302)
    assert delivery.last_error == "redirects are not followed"
    assert inside.requests == []


def test_a_receiver_that_is_gone_is_told_no_more(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver
) -> None:
    receiver.answer = receiver.say(410)
    with sending(settings):
        delivery = settled(outbox, cancel(queue, receiver))
        time.sleep(1)
    assert (delivery.state, delivery.attempts, len(receiver.requests)) == ("failed", 1, 1)


def test_a_receiver_that_asks_for_time_has_it(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver
) -> None:
    receiver.answer = receiver.say(503, retry_after="2")
    with sending(settings, webhook_backoff_s=(0, 0.1, 60)):
        job_id = cancel(queue, receiver)
        wait_until(lambda: only(outbox, job_id).last_status == 503)
        delivery = only(outbox, job_id)
        assert delivery.last_at
        assert delivery.next_at
        assert (delivery.next_at - delivery.last_at).total_seconds() == pytest.approx(2, abs=0.5)
        first, second = receiver.wait_for(2)
    assert second.at_s - first.at_s > 1.9


def test_a_host_that_is_not_there_is_tried_again(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver
) -> None:
    receiver.close()
    with sending(settings):
        delivery = settled(outbox, cancel(queue, receiver))
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("failed", 4, None)
    assert delivery.last_error


def test_a_slow_receiver_has_few_requests_at_once_and_delays_no_other(
    queue: JobQueue, settings: WorkerSettings, start_receiver: Callable[[], Receiver]
) -> None:
    slow, quick = start_receiver(), start_receiver()
    slow.answer = slow.say(200, after_s=1.5)
    with sending(settings):
        for _ in range(30):
            cancel(queue, slow)
        slow.wait_for(2)
        began_s = time.monotonic()
        for _ in range(10):
            cancel(queue, quick)
        quick.wait_for(10)
        took_s = time.monotonic() - began_s
        assert len(slow.requests) <= 4
        slow.wait_for(5)
    assert took_s < 2.5, "ten of them, two at once, while thirty wait for the slow one"
    assert (slow.most_at_once, quick.most_at_once <= 2) == (2, True)


def test_an_answer_that_never_ends_is_an_answer_too_late(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver
) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(100):
            time.sleep(0.1)
            handler.wfile.write(b"x: y\r\n")

    receiver.answer = drip
    with sending(settings, webhook_timeout_s=0.5, webhook_backoff_s=(0,)):
        delivery = settled(outbox, cancel(queue, receiver))
    assert (delivery.state, delivery.last_status) == ("failed", None)
    assert delivery.last_error == "no answer in time"


@pytest.mark.parametrize("pause_s", [0, 60])
def test_an_answer_counts_by_its_status_though_its_body_breaks_off_or_stalls(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver, pause_s: float
) -> None:
    def stall(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        time.sleep(pause_s)

    receiver.answer = stall
    with sending(settings):
        delivery = settled(outbox, cancel(queue, receiver))
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 1, 200)


def test_an_endless_body_is_not_read(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver
) -> None:
    sent: list[int] = []

    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while sum(sent) < 100_000_000:
            sent.append(handler.wfile.write(b"x" * 100_000))

    receiver.answer = flood
    with sending(settings):
        delivery = settled(outbox, cancel(queue, receiver))
    assert delivery.state == "delivered"
    wait_until(lambda: receiver.at_once == 0)
    assert sum(sent) < 50_000_000


def test_no_private_address_is_called_unless_the_settings_say_so(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver
) -> None:
    with sending(settings, webhook_allow_private=False, webhook_backoff_s=(0,)):
        literal = settled(outbox, cancel(queue, receiver))
        receiver.url = f"http://localhost:{receiver.port}/"
        named = settled(outbox, cancel(queue, receiver))
    assert (literal.last_error, named.last_error) == ("it is not a public address",) * 2
    assert receiver.requests == []


def certificate(name: str, folder: Path) -> Path:
    """A file with a key, and a certificate for that name which vouches for itself."""
    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    public = (
        x509.CertificateBuilder(subject, subject, secret.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(secret, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    path.write_bytes(secret.private_bytes(pem, *plain) + public.public_bytes(pem))
    return path


def test_the_checked_address_is_dialed_and_tls_and_host_keep_the_name(
    queue: JobQueue,
    settings: WorkerSettings,
    outbox: Outbox,
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    names: list[str | None] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    file = certificate("hooks.example", tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    context.sni_callback = lambda connection, name, _: names.append(name)
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # not asked
    with sending(settings, CheckedNetwork(settings.webhook_rules, resolve=resolve), webhook_backoff_s=(0,)):
        receiver.url = f"https://hooks.example:{receiver.port}/"
        assert settled(outbox, cancel(queue, receiver)).state == "delivered"
        receiver.url = f"https://other.example:{receiver.port}/"
        stranger = settled(outbox, cancel(queue, receiver))
    assert asked == names == ["hooks.example", "other.example"]
    assert [request.headers["host"] for request in receiver.requests] == [f"hooks.example:{receiver.port}"]
    assert stranger.state == "failed"
    assert "certificate" in (stranger.last_error or "")


def test_two_senders_send_each_event_once(
    queue: JobQueue, settings: WorkerSettings, start_receiver: Callable[[], Receiver]
) -> None:
    receivers = [start_receiver() for _ in range(3)]
    for receiver in receivers:
        receiver.answer = receiver.say(200, after_s=0.02)
    with sending(settings), sending(settings):
        for index in range(60):
            cancel(queue, receivers[index % 3])
        for receiver in receivers:
            receiver.wait_for(20)
        time.sleep(0.5)
    counts = Counter(request.id for receiver in receivers for request in receiver.requests)
    assert (len(counts), set(counts.values())) == (60, {1})
    assert max(receiver.most_at_once for receiver in receivers) <= 2, "senders share the limit"


def test_an_event_whose_sender_was_killed_is_sent_again(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver, redis_server: RedisServer
) -> None:
    receiver.answer = receiver.say(200, after_s=60)
    names = ("redis_url", "webhook_allow_http", "webhook_allow_private")
    environment = {f"CLIPCANVAS_{name.upper()}": str(getattr(settings, name)) for name in names}
    environment["CLIPCANVAS_WEBHOOK_SECRETS"] = json.dumps([SECRET])
    environment["CLIPCANVAS_WEBHOOK_PORTS"] = json.dumps([receiver.port])
    environment["CLIPCANVAS_WEBHOOK_TIMEOUT_S"] = "1.5"
    command = [sys.executable, "-m", "workers", "webhooks"]
    with subprocess.Popen(command, env={**os.environ, **environment}) as process:
        job_id = cancel(queue, receiver)
        try:
            receiver.wait_for(1, seconds=40)
        finally:
            process.kill()
    killed_s = time.monotonic()
    receiver.answer = receiver.say(200)
    with sending(settings):
        first, second = receiver.wait_for(2)
        delivery = settled(outbox, job_id)
    assert second.at_s - killed_s < 5
    assert (first.id, first.body) == (second.id, second.body)
    assert (delivery.state, delivery.attempts) == ("delivered", 2)


def test_the_sender_is_light_and_ends_when_it_is_asked_to(
    queue: JobQueue, outbox: Outbox, redis_server: RedisServer, tmp_path: Path
) -> None:
    code = (
        "import sys, runpy\nsys.argv = ['workers', 'webhooks']\n"
        "try:\n    runpy.run_module('workers', run_name='__main__')\n"
        "finally:\n    assert not {'torch', 'open_clip', 'taming'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "CLIPCANVAS_REDIS_URL": redis_server.url}
    for secrets in ("[]", json.dumps([SECRET])):
        environment["CLIPCANVAS_WEBHOOK_SECRETS"] = secrets
        log = tmp_path / "log"
        with (
            log.open("w") as file,
            subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=file) as process,
        ):
            try:
                wait_until(lambda: "webhook" in log.read_text(), 30)  # noqa: B023
                process.terminate()
                assert process.wait(10) == 0, log.read_text()
            finally:
                process.kill()
        assert SECRET not in log.read_text()


def test_a_sender_that_is_asked_to_stop_ends_what_it_began(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver
) -> None:
    receiver.answer = receiver.say(200, after_s=1)
    with sending(settings):
        job_id = cancel(queue, receiver)
        receiver.wait_for(1)
    assert only(outbox, job_id).state == "delivered"


def test_a_sender_waits_for_a_redis_that_is_gone(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver, redis_server: RedisServer
) -> None:
    with sending(settings):
        cancel(queue, receiver)
        receiver.wait_for(1)
        redis_server.stop()
        time.sleep(1)
        redis_server.start()
        cancel(queue, receiver)
        receiver.wait_for(2, seconds=20)


def test_a_delivery_may_be_sent_once_more(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver
) -> None:
    receiver.answer = receiver.say(410, 200)
    with sending(settings):
        job_id = cancel(queue, receiver)
        delivery = settled(outbox, job_id)
        assert delivery.state == "failed"
        again = outbox.redeliver(job_id, "", delivery.id)
        assert (again.id, again.state) == (delivery.id, "pending")
        assert settled(outbox, job_id).state == "delivered"
        with pytest.raises(DeliveryMissing):
            outbox.redeliver(cancel(queue, receiver), "", delivery.id)
        with pytest.raises(JobMissing):
            outbox.redeliver(job_id, "somebody else", delivery.id)
        with pytest.raises(JobMissing):
            outbox.deliveries(job_id, "somebody else")


def test_one_that_is_under_way_is_not_sent_twice_at_once(
    queue: JobQueue, outbox: Outbox, receiver: Receiver
) -> None:
    job_id = cancel(queue, receiver)
    [claimed] = outbox.claim(10, 30)
    assert outbox.redeliver(job_id, "", claimed.delivery.id).attempts == 1
    assert outbox.claim(10, 30) == []
    assert outbox.settle(claimed, Outcome("delivered", 200))
    assert not outbox.settle(claimed.__class__(claimed.delivery, "late", {}), Outcome("failed"))
    assert only(outbox, job_id).state == "delivered"


def test_deliveries_are_forgotten_with_their_job(
    queue: JobQueue, settings: WorkerSettings, outbox: Outbox, receiver: Receiver
) -> None:
    connection = connect(settings.redis_url, patience_s=1)
    waiting, sent, under_way = cancel(queue, receiver), cancel(queue, receiver), cancel(queue, receiver)
    first, second = outbox.claim(10, 30)
    assert {first.record["id"], second.record["id"]} == {waiting, sent}
    outbox.settle(first, Outcome("delivered", 200))
    for job_id in (waiting, sent, under_way):
        queue.delete(job_id, "")
    assert not outbox.settle(second, Outcome("delivered", 200)), "nobody asks any more"
    kinds = ("delivery", "snapshot", "deliveries", "outbox", "sending", "destinations")
    assert [name for kind in kinds for name in connection.keys(key(kind, "*"))] == []
    assert connection.keys(key("destinations")) == []


def test_a_job_without_a_webhook_leaves_nothing_behind(queue: JobQueue, settings: WorkerSettings) -> None:
    new = NewJob(id=new_id(), request=REQUEST)
    queue.create(new)
    start(settings, new.id).finish(Status.SUCCEEDED)
    connection = connect(settings.redis_url, patience_s=1)
    assert connection.keys(key("deliver*")) + connection.keys(key("destinations")) == []
