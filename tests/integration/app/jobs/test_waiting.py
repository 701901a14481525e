"""A wait ends when it should, however many begin at once; and who waits again is not told an old error."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from jobs.record.lease import Lease
from jobs.record.record import JobError, Status
from storage.redis import connect
from tests.support.live_api import StartApi
from tests.support.redis_server import RedisServer


def test_no_wait_is_forgotten(start_api: StartApi) -> None:
    api = start_api(images_wait_s=0.05, max_queued=1000, max_queued_per_key=1000)

    def ask(number: int) -> int:
        body = {"prompt": str(number), "model": "gradient"}
        return httpx.post(f"{api.url}/v1/images/generations", json=body, timeout=40).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(64))) == {202}


@pytest.mark.parametrize("route", ["images/generations", "jobs"])
def test_who_waits_again_for_what_broke_off_has_it_drawn_anew(
    route: str, start_api: StartApi, redis_server: RedisServer
) -> None:
    """Who asked for a job has that job, whatever became of it; and no key draws anew what cannot be drawn."""
    api = start_api(images_wait_s=0.05)
    field = "model" if route.startswith("images") else "generator"

    def ask() -> httpx.Response:
        body = {"prompt": "a fox", field: "gradient", "seed": 7}
        return api.http.post(f"/v1/{route}", json=body, headers={"Idempotency-Key": "order-17"})

    def fail(answer: httpx.Response, *, retryable: bool) -> str:
        assert answer.status_code == 202, answer.text
        job_id = str(answer.json()["id"])
        lease = Lease.start(connect(redis_server.url, patience_s=5), job_id, "w", 30)
        assert isinstance(lease, Lease)
        lease.finish(Status.FAILED, error=JobError("internal", "internal error", retryable))
        return job_id

    first = fail(ask(), retryable=True)
    if route == "jobs":
        again = ask()
        assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first, "true")
        return
    second = ask()
    assert ask().json()["id"] == second.json()["id"] != first
    api.http.delete(f"/v1/jobs/{first}")
    fail(second, retryable=True)
    third = fail(ask(), retryable=False)
    assert api.http.delete(f"/v1/jobs/{second.json()['id']}").status_code == 204
    refused = ask()
    assert (refused.status_code, refused.json()["code"]) == (422, "drawing_failed")
    assert third in refused.json()["detail"]
    api.http.delete(f"/v1/jobs/{third}")
    assert ask().json()["id"] not in (first, second.json()["id"], third)
