"""Many pictures in one request: right rows in order, in bounded memory, and each refusal has its place."""

import base64
import io
import json
import tarfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from models.clip import Embeddings, Pixels
from tests.support.images import b64, plain
from tests.support.live_api import LiveApi, StartApi, TinyClip, text_vector

COLORS = [f"#{index * 3:02x}{255 - index * 3:02x}80" for index in range(80)]
NPY = {"Accept": "application/x-npy"}


def tar(pictures: Sequence[bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for index, picture in enumerate(pictures):
            info = tarfile.TarInfo(f"{index}.png")
            info.size = len(picture)
            archive.addfile(info, io.BytesIO(picture))
    return buffer.getvalue()


def lines(items: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def embed(api: LiveApi, content: Any, kind: str = "application/x-tar", **options: Any) -> httpx.Response:
    headers = {"Content-Type": kind, **options.pop("headers", {})}
    return api.http.post("/v1/embeddings", content=content, headers=headers, params=options)


def table(answer: httpx.Response) -> NDArray[Any]:
    assert answer.headers["content-type"] == "application/x-npy", answer.text
    rows: NDArray[Any] = np.load(io.BytesIO(answer.content), allow_pickle=False)
    return rows


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [plain(color) for color in COLORS]


def expected(api: LiveApi, pictures: Sequence[bytes]) -> NDArray[Any]:
    rows = []
    for some in (pictures[:40], pictures[40:]):
        body = {"input": [{"image": b64(picture)} for picture in some]}
        rows += [row["embedding"] for row in api.http.post("/v1/embeddings", json=body).json()["data"]]
    return np.array(rows)


def test_a_tar_archive_becomes_a_numpy_file(api: LiveApi, pictures: list[bytes]) -> None:
    wanted = expected(api, pictures)
    rows = table(embed(api, tar(pictures), headers=NPY))
    assert (rows.shape, rows.dtype) == ((80, 48), np.dtype("<f4"))
    assert rows == pytest.approx(wanted, abs=1e-6)
    half = table(embed(api, tar(pictures), headers=NPY, dtype="float16", dimensions=8))
    assert (half.shape, half.dtype) == ((80, 8), np.dtype("<f2"))
    assert np.linalg.norm(half.astype(np.float32), axis=1) == pytest.approx(np.ones(80), abs=1e-3)


def test_lines_and_forms_say_the_same(api: LiveApi, pictures: list[bytes]) -> None:
    wanted = expected(api, pictures)
    items = [{"image": b64(picture)} for picture in pictures]
    answer = embed(api, lines(["a fox", *items]), "application/x-ndjson").json()
    assert [entry["index"] for entry in answer["data"]] == [*range(81)]
    assert answer["data"][0]["embedding"] == pytest.approx(text_vector("a fox"), abs=1e-6)
    assert np.array([entry["embedding"] for entry in answer["data"][1:]]) == pytest.approx(wanted, abs=1e-6)
    assert answer["usage"]["prompt_tokens"] == 4
    parts = [("image", ("x", picture)) for picture in pictures]
    by_form = api.http.post("/v1/embeddings", files=[("text", (None, "a fox")), *parts], headers=NPY)
    assert table(by_form)[1:] == pytest.approx(wanted, abs=1e-6)


def test_base64_may_be_float16(api: LiveApi) -> None:
    body = {"input": "a fox", "encoding_format": "base64", "dtype": "float16"}
    packed = api.http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f2") == pytest.approx(text_vector("a fox"), abs=1e-3)
    rows = table(api.http.post("/v1/embeddings", json={"input": ["a fox"]}, headers=NPY))
    assert rows[0] == pytest.approx(text_vector("a fox"), abs=1e-6)


def test_a_refused_item_fails_the_request_or_is_left_out(api: LiveApi, pictures: list[bytes]) -> None:
    broken = [*pictures[:5], b"no picture", *pictures[5:]]
    failed = embed(api, tar(broken), headers=NPY)
    assert (failed.status_code, failed.json()["code"]) == (415, "unsupported_image")
    assert failed.json()["errors"][0]["pointer"] == "#/5"
    left_out = embed(api, tar(broken), headers=NPY, on_error="skip")
    assert left_out.headers["x-refused-items"] == "5"
    rows = table(left_out)
    assert np.isnan(rows[5]).all()
    assert np.delete(rows, 5, axis=0) == pytest.approx(expected(api, pictures), abs=1e-6)
    said = embed(api, tar(broken), on_error="skip").json()["data"]
    assert said[5]["embedding"] is None
    assert said[5]["error"]["code"] == "unsupported_image"
    assert said[6]["index"] == 6


@pytest.mark.parametrize(
    ("content", "kind", "options", "status", "code"),
    [
        (b"", "application/x-tar", {}, 400, "malformed_body"),
        (b"\n\n", "application/x-ndjson", {}, 400, "malformed_body"),
        (b"x" * 5000, "application/x-tar", {}, 400, "malformed_body"),
        (b'"a"\n{', "application/x-ndjson", {}, 400, "malformed_body"),
        (b'{"image": 7}', "application/x-ndjson", {}, 422, "invalid_request"),
        (lines(["x"] * 21), "application/x-ndjson", {}, 422, "limit_exceeded"),
        (lines(["x" * 3000]), "application/x-ndjson", {}, 422, "limit_exceeded"),
        (lines(["x " * 30]), "application/x-ndjson", {}, 422, "text_too_long"),
        (lines(["x" * 40_000]), "application/x-ndjson", {}, 413, "body_too_large"),
        (lines(["x"] * 90_000), "application/x-ndjson", {}, 413, "body_too_large"),
        (b'"a"', "application/x-ndjson", {"dtype": "int8"}, 422, "invalid_request"),
        (b'"a"', "application/x-ndjson", {"colour": "red"}, 422, "invalid_request"),
        (b'"a"', "application/x-ndjson", {"dimensions": 49}, 422, "limit_exceeded"),
        (b'"a"', "application/x-ndjson", {"model": "nobody"}, 404, "model_not_found"),
    ],
)
def test_bad_bulk_requests_are_told(
    start_api: StartApi, content: bytes, kind: str, options: dict[str, Any], status: int, code: str
) -> None:
    api = start_api(max_bulk_items=20, max_body_bytes=20_000, max_bulk_bytes=300_000).ready()
    answer = embed(api, content, kind, **options)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert table(embed(api, tar([plain("red")]), headers=NPY)).shape == (1, 48)


class GatedClip(TinyClip):
    """Encodes pictures when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()
        self.opened.set()

    def encode_images(self, pixels: Pixels) -> Embeddings:
        assert self.opened.wait(30)
        return super().encode_images(pixels)


def test_no_more_is_read_than_can_be_worked_on(start_api: StartApi) -> None:
    clip = GatedClip()
    api = start_api(load_clip=lambda name: clip, max_batch_images=4).ready()
    clip.opened.clear()
    sent = 0
    archive = tar([plain(f"#{n:06x}", (64, 64)) + bytes(200_000) for n in range(200)])  # 40 MB

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for start in range(0, len(archive), 50_000):
            yield archive[start : start + 50_000]
            sent = start

    answers: list[httpx.Response] = []
    sending = threading.Thread(target=lambda: answers.append(embed(api, pieces(), headers=NPY)))
    sending.start()
    seen = -1
    while sent == 0 or sent != seen:  # until it stands still
        seen = sent
        threading.Event().wait(0.5)
    assert sent < 12_000_000, "eight pictures, and what the sockets hold"
    clip.opened.set()
    sending.join(60)
    assert table(answers[0]).shape == (200, 48)


def test_a_bulk_request_lets_small_ones_pass(start_api: StartApi, pictures: list[bytes]) -> None:
    api = start_api(load_clip=lambda name: TinyClip(delay_s=0.05), max_batch_images=2).ready()
    done: list[str] = []

    def bulk() -> None:
        embed(api, tar(pictures), headers=NPY)
        done.append("bulk")

    sending = threading.Thread(target=bulk)
    sending.start()
    threading.Event().wait(0.3)
    body = {"input": {"image": b64(plain("red"))}}
    assert api.http.post("/v1/embeddings", json=body).status_code == 200
    done.append("small")
    sending.join()
    assert done == ["small", "bulk"]


def test_a_bulk_request_leaves_places_to_others(start_api: StartApi) -> None:
    clip = GatedClip()
    api = start_api(load_clip=lambda name: clip).ready()
    clip.opened.clear()
    files = [plain(f"#{n:06x}", (8, 8)) for n in range(1000)]
    with ThreadPoolExecutor(2) as pool:
        bulk = pool.submit(embed, api, tar(files), headers=NPY)
        threading.Event().wait(1)
        body = {"input": {"image": b64(plain("red"))}}
        small = pool.submit(api.http.post, "/v1/embeddings", json=body)
        threading.Event().wait(0.5)
        clip.opened.set()
        assert small.result().status_code == 200
        assert table(bulk.result()).shape == (1000, 48)


def test_a_bulk_body_that_stops_is_given_up_and_one_too_many_is_refused(
    start_api: StartApi, pictures: list[bytes]
) -> None:
    clip = GatedClip()
    api = start_api(load_clip=lambda name: clip, body_idle_s=0.3, max_waiting_images=8).ready()

    def stopping() -> Iterator[bytes]:
        yield tar(pictures)[:5000]
        threading.Event().wait(1)
        yield b""

    stopped = embed(api, stopping(), headers=NPY)
    assert (stopped.status_code, stopped.json()["code"]) == (408, "body_timeout")
    clip.opened.clear()
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(embed, api, tar(pictures), headers=NPY) for _ in range(4)]
        threading.Event().wait(0.5)
        refused = embed(api, tar(pictures), headers=NPY)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        clip.opened.set()
        assert [answer.result().status_code for answer in asking] == [200] * 4


def test_a_bulk_client_that_leaves_stops_its_work(start_api: StartApi, pictures: list[bytes]) -> None:
    clip = TinyClip(delay_s=0.1)
    api = start_api(load_clip=lambda name: clip, max_batch_images=2).ready()
    clip.batches.clear()
    with httpx.Client(base_url=api.url, timeout=0.5) as leaving, pytest.raises(httpx.TimeoutException):
        leaving.post("/v1/embeddings", content=tar(pictures), headers={"Content-Type": "application/x-tar"})
    threading.Event().wait(0.5)
    assert sum(clip.batches) < 40
    assert api.http.post("/v1/embeddings", json={"input": {"image": b64(plain("red"))}}).status_code == 200
