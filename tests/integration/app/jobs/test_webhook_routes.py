"""Webhooks over HTTP: asked for with a job, refused where they can never be sent, looked at, sent again."""

import json
import re
import threading
import time
from typing import Any

import httpx
import pytest

from app.dependencies import new_key
from app.jobs.schemas import DeliveryList
from jobs.record.outbox import Outbox, Outcome
from jobs.record.record import key
from storage.redis import connect
from tests.support.live_api import LiveApi, StartApi
from tests.support.redis_server import RedisServer

QUICK: dict[str, Any] = {"prompt": "a fox", "generator": "gradient", "width": 32, "height": 32, "steps": 4}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
URL = "https://hooks.example/jobs?token=1"


@pytest.fixture
def api(start_api: StartApi) -> LiveApi:
    return start_api(webhook_secrets=[SECRET])


@pytest.fixture
def outbox(redis_server: RedisServer) -> Outbox:
    return Outbox(connect(redis_server.url, patience_s=1))


def ask(api: LiveApi, webhook: object, **headers: str) -> httpx.Response:
    return api.http.post("/v1/jobs", json={**QUICK, "webhook": webhook}, headers=headers)


def canceled(api: LiveApi, **headers: str) -> str:
    answer = ask(api, {"url": URL}, **headers)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    assert api.http.post(f"/v1/jobs/{job_id}/cancel", headers=headers).status_code == 200
    return job_id


def test_a_webhook_hears_of_every_end_unless_it_asks_for_other_events(
    api: LiveApi, redis_server: RedisServer
) -> None:
    connection = connect(redis_server.url, patience_s=1)
    for asked, events in (
        ({}, ["job.succeeded", "job.failed", "job.canceled", "job.expired"]),
        ({"events": ["job.started", "job.failed", "job.started"]}, ["job.started", "job.failed"]),
    ):
        job_id = ask(api, {"url": URL, **asked}).json()["id"]
        kept = json.loads(connection.hget(key("job", job_id), "webhook"))
        assert kept == {"url": URL, "events": events, "destination": "hooks.example:443"}


@pytest.mark.parametrize(
    ("webhook", "pointer", "code"),
    [
        ("https://hooks.example", "#/webhook", "model_type"),
        ({}, "#/webhook/url", "missing"),
        ({"url": URL, "secret": "x"}, "#/webhook/secret", "extra_forbidden"),
        ({"url": URL, "events": []}, "#/webhook/events", "too_short"),
        ({"url": URL, "events": ["job.done"]}, "#/webhook/events/0", "literal_error"),
        ({"url": "https://hooks.example/" + "x" * 2048}, "#/webhook/url", "string_too_long"),
        ({"url": ""}, "#/webhook/url", "string_too_short"),
        ({"url": "http://hooks.example/"}, "#/webhook/url", "webhook_url_refused"),
        ({"url": "ftp://hooks.example/"}, "#/webhook/url", "webhook_url_refused"),
        ({"url": "https://user:word@hooks.example/"}, "#/webhook/url", "webhook_url_refused"),
        ({"url": "https://hooks.example:22/"}, "#/webhook/url", "webhook_url_refused"),
        ({"url": "https://127.0.0.1/"}, "#/webhook/url", "webhook_url_refused"),
        ({"url": "https://0x7f.1/"}, "#/webhook/url", "webhook_url_refused"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, "#/webhook/url", "webhook_url_refused"),
        ({"url": "https://169.254.169.254/latest"}, "#/webhook/url", "webhook_url_refused"),
        ({"url": "https://localhost/"}, "#/webhook/url", "webhook_url_refused"),
        ({"url": "\ud800"}, "#/webhook/url", "string_unicode"),
    ],
)
def test_a_webhook_that_can_never_be_told_is_refused(
    api: LiveApi, webhook: object, pointer: str, code: str
) -> None:
    answer = api.http.post(
        "/v1/jobs",
        content=json.dumps({**QUICK, "webhook": webhook}),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 422, answer.text
    [fault] = answer.json()["errors"]
    assert (fault["pointer"], fault["code"]) == (pointer, code)
    assert api.http.get("/v1/jobs").json()["data"] == []


def test_without_a_secret_no_webhook_is_taken(start_api: StartApi) -> None:
    api = start_api()
    answer = ask(api, {"url": URL})
    assert (answer.status_code, answer.json()["code"]) == (422, "webhooks_not_configured")
    assert ask(api, None).status_code == 202


def test_a_laptop_may_be_allowed_to_call_itself(start_api: StartApi) -> None:
    local = {"url": "http://localhost:9000/hooks"}
    allowed = {"webhook_allow_http": True, "webhook_allow_private": True, "webhook_ports": [9000]}
    for missing in (None, *allowed):
        settings = {name: value for name, value in allowed.items() if name != missing}
        api = start_api(webhook_secrets=[SECRET], **settings)
        assert ask(api, local).status_code == (422 if missing else 202), missing


def test_the_same_request_with_another_webhook_is_another_request(api: LiveApi) -> None:
    headers = {"Idempotency-Key": "k"}
    assert ask(api, {"url": URL}, **headers).status_code == 202
    assert ask(api, {"url": URL}, **headers).headers["idempotent-replayed"] == "true"
    assert ask(api, {"url": URL + "2"}, **headers).json()["code"] == "idempotency_conflict"


def test_deliveries_are_shown_and_sent_again(api: LiveApi, outbox: Outbox) -> None:
    job_id = canceled(api)
    path = f"/v1/jobs/{job_id}/webhook-deliveries"
    [waiting] = DeliveryList.model_validate(api.http.get(path).json()).data
    assert (waiting.event, waiting.status, waiting.attempts) == ("job.canceled", "pending", 0)
    assert waiting.id.startswith("msg_")
    assert waiting.next_attempt_at
    assert (waiting.last_attempt_at, waiting.response_status, waiting.error) == (None, None, None)

    [claimed] = outbox.claim(10, 30)
    outbox.settle(claimed, Outcome("failed", 500, "the receiver refused it"))
    [failed] = DeliveryList.model_validate(api.http.get(path).json()).data
    assert (failed.status, failed.attempts, failed.response_status) == ("failed", 1, 500)
    assert (failed.error, failed.next_attempt_at) == ("the receiver refused it", None)
    assert failed.last_attempt_at

    answer = api.http.post(f"{path}/{failed.id}/redeliver")
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert answer.json()["id"] == failed.id
    assert [each.delivery.id for each in outbox.claim(10, 30)] == [failed.id]


def test_the_metrics_say_how_late_webhooks_are(api: LiveApi, outbox: Outbox) -> None:
    def lag_s() -> float:
        text = api.http.get("/metrics").text
        return float(re.findall(r"^clipcanvas_webhook_lag_seconds (\S+)$", text, re.MULTILINE)[0])

    assert lag_s() == 0
    canceled(api)
    time.sleep(0.5)
    assert 0.4 < lag_s() < 5, "no sender takes it"
    [claimed] = outbox.claim(10, 30)
    assert lag_s() == 0, "it is under way"
    outbox.settle(claimed, Outcome("delivered", 200))
    assert lag_s() == 0


def test_a_job_without_a_webhook_has_no_deliveries(api: LiveApi) -> None:
    job_id = api.http.post("/v1/jobs", json=QUICK).json()["id"]
    assert api.http.get(f"/v1/jobs/{job_id}/webhook-deliveries").json() == {"object": "list", "data": []}


def test_only_what_is_there_and_the_caller_s_own_is_found(start_api: StartApi) -> None:
    keys = {name: new_key(name) for name in ("ann", "bob")}
    api = start_api(webhook_secrets=[SECRET], api_keys=[json.loads(entry) for _, entry in keys.values()])
    ann, bob = ({"Authorization": f"Bearer {secret}"} for secret, _ in keys.values())
    job_id, other = canceled(api, **ann), canceled(api, **ann)
    path = f"/v1/jobs/{job_id}/webhook-deliveries"
    delivery = api.http.get(path, headers=ann).json()["data"][0]["id"]
    for method, place in (("GET", path), ("POST", f"{path}/{delivery}/redeliver")):
        answer = api.http.request(method, place, headers=bob)
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
        assert api.http.request(method, place).status_code == 401
    for place in (
        f"{path}/{delivery}9/redeliver",
        f"{path}/msg_x/redeliver",
        f"{path}/..%2f/redeliver",
        f"/v1/jobs/{other}/webhook-deliveries/{delivery}/redeliver",
    ):
        answer = api.http.post(place, headers=ann)
        assert answer.status_code == 404, place
        assert answer.headers["content-type"] == "application/problem+json"
    api.http.delete(f"/v1/jobs/{job_id}", headers=ann)
    assert api.http.get(path, headers=ann).status_code == 404


def test_many_who_ask_for_the_same_delivery_again_have_it_sent_once(api: LiveApi, outbox: Outbox) -> None:
    job_id = canceled(api)
    [claimed] = outbox.claim(10, 30)
    outbox.settle(claimed, Outcome("delivered", 200))
    path = f"/v1/jobs/{job_id}/webhook-deliveries/{claimed.delivery.id}/redeliver"
    threads = [threading.Thread(target=api.http.post, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outbox.claim(10, 30)) == 1
    assert outbox.claim(10, 30) == []
