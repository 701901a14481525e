"""Each limit is checked before work starts and named, with its number, in the error that it causes."""

import gc
import json
import re
import socket
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from app.dependencies import new_key
from app.settings import ApiSettings
from jobs.images import ImageLimits
from tests.support.images import b64, plain
from tests.support.live_api import LiveApi, StartApi, TinyClip

GOOD = b64(plain("red"))
JOB: dict[str, Any] = {"prompt": "a fox", "generator": "gradient", "width": 32, "height": 32, "steps": 4}


def classify(**fields: Any) -> dict[str, Any]:
    return {"images": [GOOD], "labels": ["cat"], **fields}


@pytest.mark.parametrize(
    ("settings", "path", "body", "words"),
    [
        ({}, "/v1/classify", classify(labels=["x"] * 10_000), "10000 labels; at most 4096"),
        ({}, "/v1/classify", classify(images=[GOOD] * 65), "65 images; at most 64"),
        ({}, "/v1/classify", classify(templates=["{label}"] * 129), "129 templates; at most 128"),
        ({}, "/v1/classify", classify(labels=["x"] * 4000, templates=["{label}"] * 100), "400000 texts"),
        ({}, "/v1/classify", classify(labels=["x" * 100_000]), "100000 characters in a text; at most 2000"),
        ({}, "/v1/embeddings", {"input": [{"image": GOOD}] * 65}, "65 images; at most 64"),
        ({"max_texts": 9}, "/v1/embeddings", {"input": ["x"] * 10}, "10 texts; at most 9"),
        ({}, "/v1/embeddings", {"input": "x" * 2001}, "2001 characters"),
        ({}, "/v1/embeddings", {"input": "x", "dimensions": 49}, "49 dimensions; at most 48"),
        ({"max_texts": 9}, "/v1/rank", {"query": "x", "candidates": ["x"] * 9}, "10 texts; at most 9"),
        ({"max_prompts": 2}, "/v1/jobs", {**JOB, "prompt": "a|b|c"}, "3 prompts; at most 2"),
        ({"max_pixel_steps": 4095}, "/v1/jobs", JOB, "4096 pixels times steps times images; at most 4095"),
    ],
)
def test_a_limit_is_told_with_its_number(
    start_api: StartApi, tiny_clip: TinyClip, settings: dict[str, Any], path: str, body: Any, words: str
) -> None:
    api = start_api(**settings).ready()
    tiny_clip.batches.clear()
    answer = api.http.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "limit_exceeded"), answer.text
    assert words in answer.json()["detail"]
    assert not tiny_clip.batches, "nothing was encoded"


def test_a_text_of_too_many_tokens_names_the_label(api: LiveApi) -> None:
    answer = api.http.post("/v1/classify", json=classify(labels=["cat", "word " * 30]))
    assert (answer.status_code, answer.json()["code"]) == (422, "text_too_long")
    assert answer.json()["errors"][0]["pointer"] == "#/labels/1"
    assert "20 tokens" in answer.json()["detail"]


def test_pictures_are_bounded_by_their_settings(start_api: StartApi) -> None:
    api = start_api(max_image_pixels=100, max_image_side=40).ready()
    for size, words in (((11, 10), "110 pixels; at most 100"), ((50, 1), "at most 40 pixels long")):
        body = {"input": {"image": b64(plain("red", size))}}
        answer = api.http.post("/v1/embeddings", json=body)
        assert (answer.status_code, answer.json()["code"]) == (413, "image_too_large")
        assert words in answer.json()["detail"]


def chunks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b"x" * 65_536


def test_a_body_is_bounded_declared_or_not(start_api: StartApi) -> None:
    api = start_api(max_body_bytes=1_000_000).ready()
    headers = {"Content-Type": "application/json"}
    for path in ("/v1/classify", "/v1/jobs"):
        for content in (b"x" * 1_000_001, chunks(30)):
            answer = api.http.post(path, content=content, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
            assert "1000000 bytes" in answer.json()["detail"]
    form = api.http.post("/v1/classify", files={"image": b"x" * 2_000_000})
    assert (form.status_code, form.headers["content-type"]) == (413, "application/problem+json")
    assert api.http.post("/v1/embeddings", json={"input": "a fox"}).status_code == 200


def test_bodies_that_are_worked_on_are_bounded_together(start_api: StartApi) -> None:
    clip = TinyClip(delay_s=0.5)
    api = start_api(load_clip=lambda name: clip, max_held_bytes=150_000, max_batch_images=1).ready()

    def ask(index: int, chunked: bool = False) -> tuple[int, str]:
        item = {"image": b64(plain(f"#0000{index:02x}") + bytes(40_000))}
        body = json.dumps({"input": item}).encode()
        content = (body[start : start + 9000] for start in range(0, len(body), 9000)) if chunked else body
        headers = {"Content-Type": "application/json"}
        answer = httpx.post(f"{api.url}/v1/embeddings", content=content, headers=headers, timeout=30)
        return answer.status_code, answer.json().get("code", "")

    for chunked in (False, True):
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda index, chunked=chunked: ask(index, chunked), range(6)))
        assert set(answers) == {(200, ""), (503, "overloaded")}
        assert answers.count((200, "")) >= 2
    assert ask(7) == (200, ""), "what was held is let go"
    assert api.http.get("/livez").status_code == 200


def test_a_body_that_does_not_come_is_given_up(start_api: StartApi) -> None:
    api = start_api(body_idle_s=0.3).ready()

    def slow() -> Iterator[bytes]:
        yield b"{"
        time.sleep(1)
        yield b"}"

    answer = api.http.post("/v1/classify", content=slow(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (408, "body_timeout")


def test_overload_is_told_at_once(start_api: StartApi) -> None:
    api = start_api(
        load_clip=lambda name: TinyClip(delay_s=0.3), max_waiting_texts=8, max_batch_texts=1
    ).ready()

    def ask(index: int) -> tuple[int, float, httpx.Headers]:
        began = time.monotonic()
        answer = api.http.post("/v1/embeddings", json={"input": [f"{index} {n}" for n in range(4)]})
        return answer.status_code, time.monotonic() - began, answer.headers

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    refusals = [(seconds, headers) for status, seconds, headers in answers if status == 503]
    assert len(refusals) == 4
    assert sorted(status for status, _, _ in answers) == [200] * 2 + [503] * 4
    for seconds, headers in refusals:
        assert seconds < 1
        assert int(headers["retry-after"]) > 0


def test_a_picture_that_will_not_be_taken_is_not_read(start_api: StartApi) -> None:
    clip = TinyClip(delay_s=1)
    api = start_api(load_clip=lambda name: clip, max_waiting_images=1).ready()
    head = (
        b"POST /v1/classify HTTP/1.1\r\nHost: here\r\nContent-Type: multipart/form-data; boundary=cut\r\n"
        b"Content-Length: %d\r\n\r\n--cut\r\n"
    )

    def begin(length: int) -> bytes:
        with socket.create_connection(("127.0.0.1", api.port), timeout=0.5) as connection:
            connection.sendall(head % length)
            answer = b""
            while b"}" not in answer:  # head and body may come one after the other
                answer += connection.recv(65_536)
            return answer

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(api.http.post, "/v1/embeddings", json={"input": {"image": GOOD}})
        time.sleep(0.2)
        refusal = begin(1_000_000)
        with pytest.raises(TimeoutError):
            begin(50_000)  # is waited for: it may be of texts that there is room for
        assert first.result().status_code == 200
    assert refusal.startswith(b"HTTP/1.1 503")
    assert b"overloaded" in refusal
    assert b"retry-after" in refusal.lower()
    with pytest.raises(TimeoutError):
        begin(1_000_000)
    metrics = api.http.get("/metrics").text
    assert re.search(r'requests_total\{[^}]*"/v1/classify"[^}]*"503"\} 1', metrics)


def test_who_is_refused_unread_can_ask_again_on_the_same_connection(start_api: StartApi) -> None:
    clip = TinyClip(delay_s=1)
    api = start_api(load_clip=lambda name: clip, max_waiting_images=1).ready()
    pictures = {"image": ("large.png", b"no picture" * 20_000)}
    with (
        ThreadPoolExecutor(1) as pool,
        httpx.Client(base_url=str(api.http.base_url), headers={"X-Request-Id": "mine"}) as caller,
    ):
        first = pool.submit(api.http.post, "/v1/embeddings", json={"input": {"image": GOOD}})
        time.sleep(0.2)
        streams = []
        for _ in range(2):
            with caller.stream("POST", "/v1/embeddings", files=pictures) as refused:
                streams.append(refused.extensions["network_stream"])
                problem = json.loads(refused.read())
            assert (refused.status_code, problem["code"]) == (503, "overloaded")
            assert refused.headers["x-request-id"] == problem["request_id"] == "mine"
            assert refused.headers["x-content-type-options"] == "nosniff"
        assert first.result().status_code == 200
        with caller.stream("POST", "/v1/embeddings", files=pictures) as read:
            streams.append(read.extensions["network_stream"])
            assert json.loads(read.read())["code"] == "unsupported_image"
    assert len(set(map(id, streams))) == 1


def test_a_request_that_takes_too_long_is_503(start_api: StartApi) -> None:
    api = start_api(load_clip=lambda name: TinyClip(delay_s=0.5), clip_timeout_s=0.2).ready()
    answer = api.http.post("/v1/embeddings", json={"input": "a fox"})
    assert (answer.status_code, answer.json()["code"]) == (503, "timeout")


def test_a_caller_s_own_deadline_is_504_and_its_work_is_dropped(start_api: StartApi) -> None:
    clip = TinyClip(delay_s=0.5)
    api = start_api(load_clip=lambda name: clip, max_batch_texts=1).ready()
    clip.texts.clear()

    def ask(text: str, seconds: str) -> tuple[int, str]:
        headers = {"X-Request-Timeout": seconds}
        answer = api.http.post("/v1/embeddings", json={"input": text}, headers=headers)
        return answer.status_code, answer.json().get("code", "")

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, "first", "30")
        time.sleep(0.2)
        late = [pool.submit(ask, f"late {index}", "0.1") for index in range(3)]
        assert [answer.result() for answer in late] == [(504, "deadline_exceeded")] * 3
        assert first.result() == (200, "")
    assert ask("next", "inf") == (200, "")
    assert clip.texts == ["first", "next"]
    for nonsense in ("0", "-1", "nan", "soon", ""):
        assert ask("x", nonsense) == (400, "malformed_header")


def test_no_work_begins_for_a_malformed_deadline(api: LiveApi) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        answer = api.http.post(
            "/v1/classify",
            json=classify(),
            headers={"X-Request-Timeout": "soon"},
        )
        gc.collect()
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_header")
    assert [str(warning.message) for warning in told] == []


def test_what_would_take_too_long_is_refused_at_once(start_api: StartApi) -> None:
    clip = TinyClip(delay_s=0.2)
    api = start_api(load_clip=lambda name: clip, max_batch_texts=1, clip_timeout_s=2).ready()

    def ask(index: int) -> tuple[int, str]:
        answer = api.http.post("/v1/embeddings", json={"input": [f"{index} {n}" for n in range(4)]})
        return answer.status_code, answer.json().get("code", "")

    for index in range(8):
        assert api.http.post("/v1/embeddings", json={"input": f"warm {index}"}).status_code == 200
    clip.texts.clear()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    assert set(answers) <= {(200, ""), (503, "overloaded"), (503, "timeout")}
    assert answers.count((503, "overloaded")) > 8
    assert answers.count((200, "")) >= 1
    assert len(clip.texts) <= 16, "the refused cost the model nothing"


def test_a_key_has_its_share_of_the_queue_and_the_queue_its_end(start_api: StartApi) -> None:
    keys = {name: new_key(name) for name in ("ann", "bob")}
    api = start_api(
        api_keys=[json.loads(entry) for _, entry in keys.values()], max_queued=3, max_queued_per_key=2
    )

    def ask(name: str) -> httpx.Response:
        return api.http.post("/v1/jobs", json=JOB, headers={"Authorization": f"Bearer {keys[name][0]}"})

    assert [ask("ann").status_code for _ in range(2)] == [202, 202]
    mine = ask("ann")
    assert (mine.status_code, mine.json()["code"]) == (429, "too_many_jobs")
    assert int(mine.headers["retry-after"]) > 0
    assert ask("bob").status_code == 202
    full = ask("bob")
    assert (full.status_code, full.json()["code"]) == (503, "queue_full")
    assert int(full.headers["retry-after"]) > 0


def test_only_a_key_with_the_scope_goes_first(start_api: StartApi) -> None:
    keys = {name: new_key(name) for name in ("ann", "bob")}
    entries = [json.loads(entry) for _, entry in keys.values()]
    entries[1]["scopes"] = ["jobs", "priority"]
    api = start_api(api_keys=entries)
    answers = [
        api.http.post(
            "/v1/jobs", json={**JOB, "priority": "high"}, headers={"Authorization": f"Bearer {key}"}
        )
        for key, _ in keys.values()
    ]
    assert [answer.status_code for answer in answers] == [403, 202]


def test_the_contract_s_limits_are_the_defaults() -> None:
    settings = ApiSettings()
    assert settings.max_body_bytes == 32 * 2**20
    assert (settings.max_images, settings.max_labels, settings.max_prompts) == (64, 4096, 16)
    assert ImageLimits(settings.max_image_pixels, 0, 0).pixels == 40_000_000
