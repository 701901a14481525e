"""What goes wrong on the way to the service becomes one tree of errors, after as many retries as help."""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from clipcanvas import ApiError, AsyncClient, Client, JobFailed, Unreachable, WaitTimeout
from tests.support.contract_server import DONE, JOB, problem
from tests.unit.clipcanvas.conftest import Serve

Caller = Callable[..., Any]


def call_blocking(url: str, method: str, *args: Any, retries: int = 2, **kwargs: Any) -> Any:
    with Client(url, retries=retries, max_pause_s=2) as client:
        return getattr(client, method)(*args, **kwargs)


def call_async(url: str, method: str, *args: Any, retries: int = 2, **kwargs: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(url, retries=retries, max_pause_s=2) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(run())


@pytest.fixture(params=[call_blocking, call_async], ids=["Client", "AsyncClient"])
def call(request: pytest.FixtureRequest) -> Caller:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipcanvas.client.transport.FIRST_PAUSE_S", 0.02)


class Scripted:
    """Answers each request with the next of its answers, the last one for ever; keeps the headers."""

    def __init__(self, *answers: Response) -> None:
        self.answers = list(answers)
        self.headers: list[dict[str, str]] = []
        methods = ["GET", "POST", "DELETE"]
        self.app = Starlette(routes=[Route("/{path:path}", self.answer, methods=methods)])

    async def answer(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def test_a_problem_becomes_an_error_with_all_that_it_says(call: Caller, serve: Serve) -> None:
    errors = [{"pointer": "/labels", "code": "too_many", "detail": "at most 4096"}]
    url = serve(Scripted(problem(422, "invalid_request", "labels: too many", errors=errors)).app)
    with pytest.raises(ApiError, match="labels: too many") as caught:
        call(url, "classify", b"image", ["cat"])
    error = caught.value
    assert (error.status, error.code, error.detail) == (422, "invalid_request", "labels: too many")
    assert (error.request_id, error.retryable, error.errors) == ("req-1", False, tuple(errors))


def test_an_answer_of_some_other_server_is_told_as_such(call: Caller, serve: Serve) -> None:
    url = serve(Scripted(HTMLResponse("<h1>It works!</h1>")).app)
    with pytest.raises(ApiError, match="did not answer as Clipcanvas does") as caught:
        call(url, "models")
    assert caught.value.code == "unexpected_answer"


def test_an_answer_that_lacks_what_the_contract_promises_is_told_as_such(call: Caller, serve: Serve) -> None:
    url = serve(Scripted(JSONResponse({"id": "job_1"})).app)
    with pytest.raises(ApiError, match="did not answer as Clipcanvas does"):
        call(url, "job", "job_1")


def test_an_overloaded_service_is_asked_again_no_sooner_than_it_says(call: Caller, serve: Serve) -> None:
    script = Scripted(problem(503, "overloaded", retry_after=1), JSONResponse(JOB))
    started = time.monotonic()
    assert call(serve(script.app), "job", "job_1").id == "job_1"
    assert time.monotonic() - started >= 1
    assert len(script.headers) == 2


def test_a_service_that_asks_for_long_patience_is_not_asked_again(call: Caller, serve: Serve) -> None:
    script = Scripted(problem(429, "rate_limited", retry_after=3600))
    with pytest.raises(ApiError) as caught:
        call(serve(script.app), "queue")
    assert (len(script.headers), caught.value.retry_after_s) == (1, 3600)


def test_an_error_that_cannot_pass_is_told_at_once(call: Caller, serve: Serve) -> None:
    script = Scripted(problem(503, "misconfigured", retryable=False))
    with pytest.raises(ApiError):
        call(serve(script.app), "queue")
    assert len(script.headers) == 1


def test_retries_are_bounded(call: Caller, serve: Serve) -> None:
    script = Scripted(problem(503, "overloaded"))
    with pytest.raises(ApiError):
        call(serve(script.app), "queue", retries=1)
    assert len(script.headers) == 2


def test_nobody_listening_is_unreachable(call: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(Unreachable, match=f"no answer from http://127.0.0.1:{port}"):
        call(f"http://127.0.0.1:{port}", "queue", retries=1)


def test_retries_of_one_job_share_a_key_and_other_jobs_have_another(call: Caller, serve: Serve) -> None:
    script = Scripted(problem(503, "overloaded"), JSONResponse(JOB, 202))
    url = serve(script.app)
    call(url, "create_job", "a fox")
    call(url, "create_job", "a fox")
    keys = [headers["idempotency-key"] for headers in script.headers]
    assert keys[0] == keys[1] != keys[2]


def test_a_key_is_sent_as_bearer_token(serve: Serve) -> None:
    script = Scripted(JSONResponse(JOB))
    with Client(serve(script.app), api_key="secret") as client:
        client.job("job_1")
    assert script.headers[0]["authorization"] == "Bearer secret"


def test_waiting_brings_the_job_and_its_failure_is_an_error(call: Caller, serve: Serve) -> None:
    error = {"code": "out_of_memory", "detail": "the image is too large", "retryable": False}
    failed = DONE | {"status": "failed", "error": error}
    url = serve(Scripted(JSONResponse(JOB), JSONResponse(failed)).app)
    with pytest.raises(JobFailed, match="the image is too large") as caught:
        call(url, "wait", "job_1")
    assert (caught.value.code, caught.value.job.id) == ("out_of_memory", "job_1")


def test_waiting_ends_in_time_and_says_how_far_the_job_was(call: Caller, serve: Serve) -> None:
    with pytest.raises(WaitTimeout, match="still queued"):
        call(serve(Scripted(JSONResponse(JOB)).app), "wait", "job_1", timeout_s=0)


def test_a_service_that_is_not_ready_says_what_it_waits_for(call: Caller, serve: Serve) -> None:
    body = {"status": "not ready", "parts": {"queue": "ready", "clip:demo-photo": "loading"}}
    readiness = call(serve(Scripted(JSONResponse(body, 503)).app), "ready")
    assert (readiness.ready, readiness.parts) == (False, body["parts"])


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://[::1", "http://a:b:c"])
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected a URL"):
        Client(url)
