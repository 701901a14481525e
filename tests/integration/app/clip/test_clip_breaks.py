"""What breaks servers of this kind breaks nothing here, while others keep it busy."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import skimage.data
from PIL import Image

from tests.support.images import b64, plain, png
from tests.support.live_api import LiveApi, StartApi, TinyClip, text_vector

Vector = list[float]


@pytest.fixture(scope="module")
def photo() -> bytes:
    return png(Image.fromarray(skimage.data.coffee()).resize((640, 480)), "JPEG", quality=90)


@pytest.fixture
def busy(start_api: StartApi) -> Iterator[LiveApi]:
    """An API with its caches on, which eight callers ask for pictures and texts all the time."""
    api = start_api(load_clip=lambda name: TinyClip(delay_s=0.005), image_cache_rows=100).ready()
    with load(api) as statuses:
        yield api
    assert statuses
    assert set(statuses) == {200}, "nobody else was harmed"


@contextmanager
def load(api: LiveApi) -> Iterator[list[int]]:
    ending = threading.Event()
    numbers = itertools.count()
    statuses: list[int] = []

    def ask() -> None:
        with httpx.Client(base_url=api.url, timeout=60) as http:
            while not ending.is_set():
                number = next(numbers)
                item = {"image": b64(plain(f"#{number % 2**24:06x}", (64, 48)))}
                answer = http.post("/v1/embeddings", json={"input": [item, f"busy {number}"]})
                statuses.append(answer.status_code)

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask) for _ in range(8)]
        try:
            yield statuses
        finally:
            ending.set()
        for one in asking:
            one.result(60)


def embed(api: LiveApi, item: Any) -> httpx.Response:
    return httpx.post(f"{api.url}/v1/embeddings", json={"input": item}, timeout=60)


def vector(answer: httpx.Response) -> Vector:
    assert answer.status_code == 200, answer.text
    row: Vector = answer.json()["data"][0]["embedding"]
    return row


def test_a_truncated_jpeg_and_then_a_text(busy: LiveApi, photo: bytes) -> None:
    refused = embed(busy, {"image": b64(photo[:30_000])})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_image")
    assert vector(embed(busy, "a fox")) == pytest.approx(text_vector("a fox"), abs=1e-6)
    assert busy.http.get("/readyz").status_code == 200


def test_a_truncated_jpeg_among_five_good_ones(busy: LiveApi, photo: bytes) -> None:
    wanted = vector(embed(busy, {"image": b64(photo)}))
    for _ in range(5):
        files = [photo] * 5 + [photo[:30_000]]
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda file: embed(busy, {"image": b64(file)}), files))
        assert [answer.status_code for answer in answers] == [200] * 5 + [422]
        assert all(vector(answer) == wanted for answer in answers[:5])


def test_three_pictures_of_one_size_and_color_each(busy: LiveApi) -> None:
    files = [plain(color, (300, 200)) for color in ("red", "lime", "blue")] * 2
    rows = [vector(embed(busy, {"image": b64(file)})) for file in files]
    assert rows[:3] == rows[3:]
    assert len({tuple(row) for row in rows}) == 3


def test_64_callers_with_pictures_of_their_own(busy: LiveApi) -> None:
    files = [plain(f"#{3 * index:02x}{255 - 3 * index:02x}40", (80, 60)) for index in range(64)]
    wanted = [vector(embed(busy, {"image": b64(file)})) for file in files]
    assert len({tuple(row) for row in wanted}) == 64
    with ThreadPoolExecutor(64) as pool:
        for _ in range(3):
            rows = list(pool.map(lambda file: vector(embed(busy, {"image": b64(file)})), files))
            assert rows == wanted
            files = [
                file + b"\0" for file in files
            ]  # other files of the same pictures: nothing is known of them


def test_half_of_the_callers_hang_up(busy: LiveApi, photo: bytes) -> None:
    leaving = httpx.Timeout(30, read=0.001)  # everything has been sent by then

    def ask(index: int) -> int:
        file = photo + b"\0" * index
        if index % 2:
            with pytest.raises(httpx.TimeoutException):
                httpx.post(f"{busy.url}/v1/embeddings", json={"input": {"image": b64(file)}}, timeout=leaving)
            return 0
        return embed(busy, {"image": b64(file)}).status_code

    with ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(ask, range(32)))
    assert statuses == [200, 0] * 16
    assert vector(embed(busy, "a fox")) == pytest.approx(text_vector("a fox"), abs=1e-6)
