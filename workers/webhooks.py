"""The webhook sender: tells receivers what happened to jobs, from the outbox. Holds no torch.

Signed as Standard Webhooks 1.0 has it (https://www.standardwebhooks.com). Several may run: a delivery is
claimed before it is sent, and comes back if its sender dies. So a receiver may hear of an event twice, with
the same `webhook-id`.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpcore
import redis
import structlog

from jobs.job_response import view
from jobs.record.outbox import Claimed, Outbox, Outcome
from jobs.record.record import from_hash
from jobs.settings import webhook_key
from storage.net.safe_http import AddressRefused, CheckedNetwork, check_url, open_connections
from storage.redis import connect
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 20_000
MAX_ANSWER_BYTES = 1000
READ_S = 1.0  # and for no longer
POLL_S = 0.2


class WebhookSender:
    """Sends what is due until `stop` is set, then ends the requests that are under way."""

    def __init__(
        self, settings: WorkerSettings, stop: asyncio.Event, network: CheckedNetwork | None = None
    ) -> None:
        self._settings, self._stop = settings, stop
        self._outbox = Outbox(connect(settings.redis_url, patience_s=5))
        self._keys = [webhook_key(secret) for secret in settings.webhook_secrets]
        self._network = network or CheckedNetwork(settings.webhook_rules)

    async def run(self) -> None:
        """Send until told to stop. A Redis that is gone is waited for."""
        if not self._keys:
            log.info("no webhook secret is set, nothing will be sent")
            await self._stop.wait()
            return
        log.info("sending webhooks")
        at_once = self._settings.webhooks_at_once
        # names are looked up on threads: a slow name server must not hold up other names, nor Redis
        _loop().set_default_executor(ThreadPoolExecutor(at_once, "resolve"))
        with ThreadPoolExecutor(8, "redis") as threads:
            async with open_connections(self._network, at_once=at_once) as http:
                await self._send_all(http, threads, at_once)

    async def _send_all(self, http: httpcore.AsyncConnectionPool, threads: Executor, at_once: int) -> None:
        under_way: set[asyncio.Task[None]] = set()
        ended = asyncio.Event()  # one of them did, so that its receiver can take another

        def forget(task: asyncio.Task[None]) -> None:
            under_way.discard(task)
            ended.set()

        while not self._stop.is_set():
            ended.clear()
            claimed: list[Claimed] = []
            try:
                if len(under_way) < at_once:
                    room = at_once - len(under_way)
                    # a sender is taken for dead when twice the time that an attempt may take has passed
                    visible_s = 2 * self._settings.webhook_timeout_s
                    claimed = await _loop().run_in_executor(threads, self._outbox.claim, room, visible_s)
            except redis.RedisError as error:
                log.warning("outbox not read", error=type(error).__name__)
            for each in claimed:
                task = asyncio.create_task(self._deliver(each, http, threads))
                under_way.add(task)
                task.add_done_callback(forget)
            if not claimed:
                await _wait(ended, POLL_S)
        await asyncio.gather(*under_way)

    async def _deliver(self, claimed: Claimed, http: httpcore.AsyncConnectionPool, threads: Executor) -> None:
        delivery = claimed.delivery
        try:
            async with asyncio.timeout(self._settings.webhook_timeout_s):
                outcome = await self._attempt(claimed, http)
        except TimeoutError:
            outcome = self._again(claimed, "no answer in time")
        except AddressRefused as error:
            outcome = self._again(claimed, str(error))
        except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
            outcome = self._again(claimed, str(error)[:200] or "the connection broke off")
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol):
            outcome = self._again(claimed, "the answer was not HTTP")
        except Exception:
            log.exception("webhook not sent", delivery=delivery.id)
            outcome = self._again(claimed, "internal error")
        try:
            kept = await _loop().run_in_executor(threads, self._outbox.settle, claimed, outcome)
        except redis.RedisError as error:
            log.warning("outcome not kept", delivery=delivery.id, error=type(error).__name__)
            return  # it will be sent again
        log.info(
            "webhook attempted",
            delivery=delivery.id,
            webhook_event=delivery.event,
            job_id=claimed.record["id"],
            attempt=delivery.attempts,
            state=outcome.state if kept else "taken over",
            status=outcome.status,
            error=outcome.error or None,
        )

    async def _attempt(self, claimed: Claimed, http: httpcore.AsyncConnectionPool) -> Outcome:
        webhook = from_hash(claimed.record).webhook
        assert webhook is not None
        url = check_url(webhook.url, self._settings.webhook_rules)
        body = body_of(claimed)
        headers = {
            "Host": url.netloc.decode(),
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "User-Agent": "Clipcanvas",
            **signed(claimed.delivery.id, int(time.time()), body, self._keys),
        }
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        async with http.stream("POST", target, headers=[*headers.items()], content=body) as response:
            await _read_some(response)
            return self._judge(claimed, response.status, dict(response.headers))

    def _judge(self, claimed: Claimed, status: int, headers: Mapping[bytes, bytes]) -> Outcome:
        if 200 <= status < 300:
            return Outcome("delivered", status)
        if status == 410:  # the receiver is gone and says so
            return Outcome("failed", status, "the receiver wants no more")
        wait_s = 0.0
        if status in (429, 503):
            told = {name.lower(): value for name, value in headers.items()}.get(b"retry-after", b"")
            wait_s = retry_after_s(told.decode("ascii", "replace"))
        reason = "redirects are not followed" if 300 <= status < 400 else "the receiver refused it"
        return self._again(claimed, reason, status, wait_s)

    def _again(
        self, claimed: Claimed, error: str, status: int | None = None, at_least_s: float = 0.0
    ) -> Outcome:
        pauses_s = self._settings.webhook_backoff_s
        if claimed.delivery.attempts >= len(pauses_s):
            return Outcome("failed", status, error)
        wait_s = pauses_s[claimed.delivery.attempts] * random.uniform(0.8, 1.2)
        return Outcome("pending", status, error, max(wait_s, min(at_least_s, max(pauses_s))))


def signed(message_id: str, timestamp: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The headers by which a receiver knows who sent a message, when, and that it is whole.

    Args:
        timestamp: of this attempt, in seconds since 1970.
        keys: each of them signs.
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.digest(key, content, hashlib.sha256) for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
    }


def body_of(claimed: Claimed) -> bytes:
    """What is told: the job as the API showed it then, less its request; the same in every attempt."""
    job = view(from_hash(claimed.record)).model_dump(mode="json", exclude={"request"})
    told = {
        "type": claimed.delivery.event,
        "timestamp": claimed.delivery.created_at.isoformat().replace("+00:00", "Z"),
        "data": job,
    }
    body = _json(told)
    if len(body) > MAX_BODY_BYTES:  # the parts that a client makes long
        job = {**job, "metadata": None}
        body = _json({**told, "data": job})
    if len(body) > MAX_BODY_BYTES:
        images = [output for output in job["outputs"] if output["kind"] == "image"]
        body = _json({**told, "data": {**job, "outputs": images}})
    return body


def retry_after_s(text: str) -> float:
    """The seconds that a Retry-After header asks for, as a number or as a date; 0 if it says neither."""
    if text.strip().isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


async def _read_some(response: httpcore.Response) -> None:
    # what it says counts for nothing: a short answer is read so that its sender sees no broken connection
    read = 0
    try:
        async with asyncio.timeout(READ_S):
            async for chunk in response.aiter_stream():
                read += len(chunk)
                if read >= MAX_ANSWER_BYTES:
                    return
    except (TimeoutError, httpcore.NetworkError, httpcore.ProtocolError):
        return


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
