"""What a webhook is told is signed so that others' verifiers take it, short, and sent on schedule."""

import asyncio
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from jobs.record.outbox import Claimed, Delivery
from jobs.settings import JobSettings, webhook_key
from models.requests.request import GenerationRequest, Prompt
from workers.settings import WorkerSettings
from workers.webhooks import MAX_BODY_BYTES, WebhookSender, body_of, retry_after_s, signed

SECRETS = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]
REQUEST = GenerationRequest(
    generator="gradient", prompts=(Prompt(text="the secret fox"),), width=64, height=64, steps=5, seed=1
)
RECORD = {
    "id": "job_00000000000000000000000000",
    "tenant": "",
    "type": "draw",
    "status": "succeeded",
    "seq": "3",
    "priority": "normal",
    "request": REQUEST.model_dump_json(),
    "attempt": "1",
    "created_ms": "1760000000000",
}


def claimed(record: dict[str, str] = RECORD, attempts: int = 1) -> Claimed:
    created_at = datetime.fromtimestamp(1_760_000_000, UTC)
    return Claimed(Delivery("msg_1", "job.succeeded", "pending", attempts, created_at), "token", record)


def sender(**settings: Any) -> WebhookSender:
    return WebhookSender(WorkerSettings(webhook_secrets=SECRETS, **settings), asyncio.Event())


def test_anybody_with_a_secret_of_ours_can_verify_a_message() -> None:
    body = body_of(claimed())
    headers = signed("msg_1", int(time.time()), body, [webhook_key(SecretStr(text)) for text in SECRETS])
    for secret in SECRETS:  # while one takes the other's place, both hold
        assert Verifier(secret).verify(body, headers) == json.loads(body)
    for altered in (
        (body.replace(b"succeeded", b"failed"), headers),
        (body, {**headers, "webhook-id": "msg_2"}),
        (body, {**headers, "webhook-timestamp": str(int(time.time()) - 1)}),
    ):
        with pytest.raises(WebhookVerificationError):
            Verifier(SECRETS[0]).verify(*altered)
    with pytest.raises(WebhookVerificationError):
        Verifier("whsec_" + "A" * 32).verify(body, headers)


def test_the_example_of_the_specification_is_signed_as_there() -> None:
    # https://github.com/standard-webhooks/standard-webhooks, the libraries' own test vector
    headers = signed(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
        [webhook_key(SecretStr(SECRETS[0]))],
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_ÄÖ", "whpk_" + "A" * 32])
def test_what_is_no_secret_stops_the_start_and_is_not_shown(secret: str) -> None:
    with pytest.raises(ValidationError) as caught:
        JobSettings(webhook_secrets=(SecretStr(SECRETS[0]), SecretStr(secret)))
    assert SECRETS[0] not in str(caught.value)
    assert SECRETS[0] not in repr(JobSettings(webhook_secrets=(SecretStr(SECRETS[0]),)))


def test_the_job_is_told_without_its_request() -> None:
    told = json.loads(body_of(claimed({**RECORD, "metadata": '{"order": "7"}'})))
    assert (told["type"], told["timestamp"]) == ("job.succeeded", "2025-10-09T08:53:20Z")
    assert (told["data"]["id"], told["data"]["status"]) == (RECORD["id"], "succeeded")
    assert told["data"]["metadata"] == {"order": "7"}
    assert "request" not in told["data"]
    assert "secret fox" not in json.dumps(told)


@pytest.mark.parametrize("each", [("image",), ("image", "sidecar", "svg", "video", "thumbnail", "x")])
def test_a_message_stays_short(each: tuple[str, ...]) -> None:
    metadata = json.dumps({f"key{index}" + "k" * 50: "\x00" * 512 for index in range(16)})
    outputs = json.dumps(
        [
            {"name": f"image-{index}.png", "key": "k", "content_type": "image/png", "kind": kind,
             "width": 4096, "height": 4096, "seed": 2**32 - 1, "clip_score": 0.1234, "held_out_score": 0.1234}
            for index in range(16)
            for kind in each
        ]
    )  # fmt: skip
    body = body_of(claimed({**RECORD, "metadata": metadata, "outputs": outputs}))
    assert len(body) <= MAX_BODY_BYTES
    assert json.loads(body)["data"]["metadata"] is None
    assert len(json.loads(body)["data"]["outputs"]) == 16


def test_attempts_follow_the_schedule_give_or_take_a_fifth_and_end() -> None:
    schedule = WorkerSettings().webhook_backoff_s
    assert schedule == (0, 5, 60, 300, 1800, 7200, 21600, 43200)
    for made in range(1, len(schedule)):
        outcomes = [sender()._again(claimed(attempts=made), "x") for _ in range(50)]
        waits_s = [outcome.wait_s / schedule[made] for outcome in outcomes]
        assert {outcome.state for outcome in outcomes} == {"pending"}
        assert 0.8 <= min(waits_s) < 0.95 < 1.05 < max(waits_s) <= 1.2
    assert sender()._again(claimed(attempts=len(schedule)), "x").state == "failed"


def test_an_answer_decides_what_comes_next() -> None:
    judge = sender()._judge
    assert [judge(claimed(), status, {}).state for status in (200, 202, 204, 299)] == ["delivered"] * 4
    assert judge(claimed(), 410, {}).state == "failed"
    for status in (301, 302, 307, 400, 404, 429, 500, 503):
        outcome = judge(claimed(), status, {})
        assert (outcome.state, outcome.status) == ("pending", status)
        assert outcome.wait_s <= 6


def test_a_receiver_may_ask_for_time() -> None:
    judge = sender()._judge
    for status in (429, 503):
        assert judge(claimed(), status, {b"Retry-After": b"600"}).wait_s == 600
        assert judge(claimed(), status, {b"retry-after": b"1"}).wait_s >= 4, "never sooner than the schedule"
        assert judge(claimed(), status, {b"Retry-After": b"9999999999"}).wait_s == 43200, "but not for ever"
    assert judge(claimed(), 500, {b"Retry-After": b"600"}).wait_s <= 6
    last = replace(claimed(), delivery=replace(claimed().delivery, attempts=8))
    assert judge(last, 503, {b"Retry-After": b"600"}).state == "failed"


def test_retry_after_is_a_number_or_a_date() -> None:
    at = datetime.now(UTC) + timedelta(seconds=100)
    assert 95 < retry_after_s(format_datetime(at, usegmt=True)) <= 100
    assert retry_after_s(format_datetime(at - timedelta(days=1), usegmt=True)) == 0
    assert retry_after_s("7") == 7
    for text in ("", "-5", "soon", "1e9", "Wed, 99 Nov 2026 00:00:00 GMT", "٣"):
        assert retry_after_s(text) in (0, 3), text
