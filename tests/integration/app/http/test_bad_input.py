"""Bad input of every kind gets the right 4xx with a useful detail, and the next request is served."""

import contextlib
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from app.http.errors import Problem
from tests.support.images import b64, plain, png
from tests.support.live_api import LiveApi

GOOD = b64(plain("red"))
FILE = plain("red")
JOB = {"prompt": "a fox", "generator": "gradient"}


def bomb(side: int = 30_000) -> bytes:
    """A PNG of 1 bit per pixel: some kilobytes that unfold to `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


BOMB = bomb()
TRUNCATED = png(Image.effect_noise((300, 300), 90), "JPEG")[:5000]


@pytest.fixture
def unharmed(api: LiveApi) -> Iterator[LiveApi]:
    """An API that must serve after the test as before."""
    yield api
    assert api.http.post("/v1/embeddings", json={"input": "a fox"}).status_code == 200
    assert api.http.get("/readyz").status_code == 200


def refused(api: LiveApi, status: int, code: str, *words: str, **request: Any) -> dict[str, Any]:
    """Send a request that is refused; its problem."""
    path = request.pop("path", "/v1/classify")
    answer = api.http.request(request.pop("method", "POST"), path, **request)
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    Problem.model_validate(problem)
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["instance"] == path
    for word in words:
        assert word in problem["detail"], problem
    for secret in ("Traceback", "site-packages", "/work", "pydantic", "PIL", "redis"):
        assert secret not in answer.text
    return problem


@pytest.mark.parametrize(
    ("data", "status", "code", "word"),
    [
        pytest.param(TRUNCATED, 422, "invalid_image", "truncated", id="a truncated JPEG"),
        pytest.param(BOMB, 413, "image_too_large", "40000000", id="30000 x 30000 of 1 bit"),
        pytest.param(b"hello, I am a text", 415, "unsupported_image", "JPEG, PNG", id="a text named .png"),
        pytest.param(
            b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_image", "WebP", id="an SVG"
        ),
        pytest.param(b"", 422, "invalid_image", "empty", id="an empty file"),
    ],
)
def test_bad_pictures(unharmed: LiveApi, data: bytes, status: int, code: str, word: str) -> None:
    parts: list[tuple[str, Any]] = [("image", ("x.png", FILE)), ("image", ("cat.png", data, "image/png"))]
    parts.append(("labels", (None, "cat")))
    problem = refused(unharmed, status, code, word, files=parts)
    assert [fault["pointer"] for fault in problem["errors"]] == ["#/images/1"]
    inline = f"data:image/png;base64,{b64(data)}"
    refused(unharmed, status, code, word, json={"images": [GOOD, inline], "labels": ["cat"]})
    refused(unharmed, status, code, word, json={"input": {"image": inline}}, path="/v1/embeddings")
    body = {"generator": "gradient", "prompts": [{"image": inline}]}
    problem = refused(unharmed, status, code, word, json=body, path="/v1/jobs")
    assert problem["errors"][0]["pointer"] == "#/prompts/0/image"


def test_every_bad_picture_of_a_request_is_named(unharmed: LiveApi) -> None:
    body = {"images": [b64(TRUNCATED), GOOD, "https://example.org/x.png", "?"], "labels": ["cat"]}
    problem = refused(unharmed, 422, "invalid_image", json=body)
    assert [(fault["pointer"], fault["code"]) for fault in problem["errors"]] == [
        ("#/images/0", "invalid_image"),
        ("#/images/2", "image_url_refused"),
        ("#/images/3", "invalid_image"),
    ]


@pytest.mark.parametrize(
    ("content", "status", "code", "word"),
    [
        (b"", 400, "malformed_body", "empty"),
        (b"{", 400, "malformed_body", "not JSON"),
        (b'{"top_k": NaN}', 400, "malformed_body", "NaN"),
        (b'{"top_k": -Infinity}', 400, "malformed_body", "Infinity"),
        (b'{"top_k": 1e999}', 400, "malformed_body", "too large"),
        (b"[" * 200_000, 400, "malformed_body", "nested"),
        (b"\xff\xfe", 400, "malformed_body", "not JSON"),
        (b"[]", 422, "invalid_request", "object"),
        (b"null", 422, "invalid_request", "object"),
        (b'{"images": ["x"], "images": ["y"], "labels": ["a"]}', 422, "invalid_request", "repeated"),
        (b'{"images": ["\\ud800"], "labels": ["\\ud800"]}', 422, "invalid_request", "#/labels/0"),
        (b'{"\\ud800": 1}', 422, "invalid_request", "Unicode"),
    ],
)
def test_bad_json(unharmed: LiveApi, content: bytes, status: int, code: str, word: str) -> None:
    headers = {"Content-Type": "application/json"}
    for path in ("/v1/classify", "/v1/embeddings", "/v1/rank", "/v1/jobs"):
        answer = unharmed.http.post(path, content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    refused(unharmed, status, code, word, content=content, headers=headers)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"images": [GOOD], "labels": ["a"], "lable": 1}, "#/lable"),
        ({"images": [GOOD], "labels": []}, "#/labels"),
        ({"images": [GOOD], "labels": [""]}, "#/labels/0"),
        ({"images": [], "labels": ["a"]}, "#/images"),
        ({"images": [GOOD]}, "#/labels"),
        ({"images": [GOOD], "labels": "cat"}, "#/labels"),
        ({"images": [5], "labels": ["a"]}, "#/images/0"),
        ({"images": [GOOD], "labels": ["a"], "top_k": 0}, "#/top_k"),
        ({"images": [GOOD], "labels": ["a"], "top_k": "1"}, "#/top_k"),
        ({"images": [GOOD], "labels": ["a"], "top_k": True}, "#/top_k"),
        ({"images": [GOOD], "labels": ["a"], "templates": ["a photo"]}, "#/templates/0"),
    ],
)
def test_bad_fields_are_named(unharmed: LiveApi, body: dict[str, Any], pointer: str) -> None:
    problem = refused(unharmed, 422, "invalid_request", pointer, json=body)
    assert pointer in [fault["pointer"] for fault in problem["errors"]]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"prompt": ""}, "#/prompt"),
        ({"prompt": " | "}, "#/prompt"),
        ({"prompt": "a fox:99"}, "#/prompt"),
        ({"prompt": "x" * 100_000}, "#/prompt"),
        ({"prompt": None, "prompts": [{"text": "x" * 100_000}]}, "#/prompts/0/text"),
        ({"prompt": None, "prompts": [{"text": "x", "weight": 11}]}, "#/prompts/0/weight"),
        ({"prompt": None, "prompts": [{"text": "x", "wait": 1}]}, "#/prompts/0/wait"),
        ({"prompt": None, "prompts": []}, "#/prompts"),
        ({"steps": 0}, "#/steps"),
        ({"steps": "5"}, "#/steps"),
        ({"steps": 1.5}, "#/steps"),
        ({"width": 10**9}, "#/width"),
        ({"generator": "vqgan_clip", "width": 250}, "#/width"),
        ({"seed": -1}, "#/seed"),
        ({"seed": 2**32}, "#/seed"),
        ({"num_images": 17}, "#/num_images"),
        ({"options": {"delay": 1}}, "#/options/delay"),
        ({"options": {"delay_s": 5}}, "#/options/delay_s"),
        ({"options": []}, "#/options"),
        ({"priority": "urgent"}, "#/priority"),
        ({"type": "paint"}, "#/type"),
        ({"metadata": {"a": 1}}, "#/metadata/a"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "#/metadata"),
    ],
)
def test_bad_jobs_are_refused_before_they_queue(
    unharmed: LiveApi, fields: dict[str, Any], pointer: str
) -> None:
    body = {name: value for name, value in {**JOB, **fields}.items() if value is not None}
    problem = refused(unharmed, 422, "invalid_request", json=body, path="/v1/jobs")
    assert pointer in [fault["pointer"] for fault in problem["errors"]], problem
    assert unharmed.http.get("/v1/queue").json()["queued"] == 0


def test_unknown_names(unharmed: LiveApi) -> None:
    body = {"images": [GOOD], "labels": ["a"], "model": "gpt-9"}
    refused(unharmed, 404, "model_not_found", "'gpt-9'", "demo-photo", json=body)
    for name in ("dall-e-9", "../../etc", "Gradient", ""):
        job = {**JOB, "generator": name}
        code = "generator_not_found" if name else "invalid_request"
        refused(unharmed, 422, code, repr(name) if name else "#/generator", json=job, path="/v1/jobs")
    refused(unharmed, 404, "not_found", path="/v2/classify")
    refused(unharmed, 405, "method_not_allowed", "GET", method="GET")
    for job_id in ("x", f"job_{'0' * 26}", f"job_{'0' * 27}"):
        refused(unharmed, 404, "job_not_found", path=f"/v1/jobs/{job_id}", method="GET")


def test_bodies_of_another_kind(unharmed: LiveApi) -> None:
    text = json.dumps({"images": [GOOD], "labels": ["a"]})
    for kind in ("text/plain", "image/png", "application/x-www-form-urlencoded"):
        refused(unharmed, 415, "unsupported_media_type", kind, content=text, headers={"Content-Type": kind})
    refused(unharmed, 415, "unsupported_media_type", "missing", content=text)
    gzip = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    refused(unharmed, 415, "unsupported_media_type", "gzip", content=text, headers=gzip)
    refused(unharmed, 415, "unsupported_media_type", "multipart", files={"image": FILE}, path="/v1/rank")
    for kind in ("multipart/form-data", "multipart/form-data; boundary=b"):
        refused(unharmed, 400, "malformed_body", "form", content="x", headers={"Content-Type": kind})


PICTURE = ("image", ("x", FILE))
LABEL = ("labels", (None, "cat"))


@pytest.mark.parametrize(
    ("parts", "pointer"),
    [
        ([LABEL], "#/images"),
        ([PICTURE], "#/labels"),
        ([PICTURE, LABEL, ("model", (None, "a")), ("model", (None, "b"))], "#/model"),
        ([PICTURE, LABEL, ("top_k", (None, "many"))], "#/top_k"),
        ([PICTURE, LABEL, ("color", (None, "red"))], "#/color"),
        ([PICTURE, ("labels", ("x.bin", b"\xff\xff"))], "#/labels/0"),
    ],
)
def test_bad_forms(unharmed: LiveApi, parts: list[tuple[str, Any]], pointer: str) -> None:
    problem = refused(unharmed, 422, "invalid_request", files=parts)
    assert pointer in [fault["pointer"] for fault in problem["errors"]]


def test_request_ids_are_taken_if_they_are_harmless(unharmed: LiveApi) -> None:
    given = unharmed.http.get("/v1/nothing", headers={"X-Request-Id": "order-12_a"})
    assert (given.headers["x-request-id"], given.json()["request_id"]) == ("order-12_a", "order-12_a")
    for bad in ("a b", "x" * 65, '"><script>', ""):
        made = unharmed.http.get("/livez", headers={"X-Request-Id": bad}).headers["x-request-id"]
        assert made != bad
        assert len(made) == 32


def test_bytes_that_are_no_http_harm_nobody(unharmed: LiveApi) -> None:
    endless_header = b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000
    cut_body = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
    chunked = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    endless_chunk = chunked + b"1;a=" + b"x" * 100_000
    bad_address = b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n"
    for nonsense in (b"\x16\x03\x01\x02\x00", endless_header, cut_body, endless_chunk, bad_address):
        with socket.create_connection(("127.0.0.1", unharmed.port)) as connection:
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(10_000)


def test_a_head_or_trailers_without_end_are_cut_off(unharmed: LiveApi) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
    chunked = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for begun in (head, chunked + b"1\r\n{\r\n0\r\n"):
        endless = begun + b"".join(b"A%d: %s\r\n" % (n, b"x" * 1000) for n in range(2000))
        with (
            socket.create_connection(("127.0.0.1", unharmed.port), timeout=10) as connection,
            contextlib.suppress(ConnectionError),  # it closes with some of it unread
        ):
            connection.sendall(endless)
            assert connection.recv(100)[:12] in (b"HTTP/1.1 400", b"")
