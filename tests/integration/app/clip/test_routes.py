"""CLIP over HTTP: right answers in the contract's shape, each caller its own, however many ask at once."""

import base64
import io
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import skimage.data
from PIL import Image

from app.clip.schemas import ClassifyAnswer, EmbeddingsAnswer, RankAnswer
from models.clip import Embeddings, Pixels
from tests.support.images import b64, plain, png
from tests.support.live_api import LiveApi, StartApi, TinyClip, text_vector


@pytest.fixture(scope="module")
def cat() -> bytes:
    return png(Image.fromarray(skimage.data.chelsea()), "JPEG")


def test_a_real_photo_is_classified_by_the_real_default_model(demo_api: LiveApi, cat: bytes) -> None:
    body = {"images": [b64(cat)], "labels": ["dog", "cat", "rocket"]}
    answer = demo_api.http.post("/v1/classify", json=body)
    said = ClassifyAnswer.model_validate(answer.json())
    assert said.data[0]["labels"][0]["label"] == "cat"
    assert sum(label["probability"] for label in said.data[0]["labels"]) == pytest.approx(1, abs=1e-5)
    assert said.model == "demo-photo"
    assert said.usage["images"] == 1
    names = [part.partition(";")[0] for part in answer.headers["server-timing"].split(", ")]
    assert names == ["decode", "queue", "encode"]


def test_a_form_is_answered_as_json_is(demo_api: LiveApi, cat: bytes) -> None:
    body = {"images": [b64(cat)] * 2, "labels": ["cat", "dog"], "templates": ["a {label}."], "top_k": 1}
    parts: list[tuple[str, Any]] = [
        ("image", ("a.jpg", cat)),
        ("labels", (None, "cat")),
        ("image", ("a.txt", cat, "text/plain")),
        ("labels", (None, "dog")),
        ("templates", (None, "a {label}.")),
        ("top_k", (None, "1")),
    ]
    by_form = demo_api.http.post("/v1/classify", files=parts).json()
    by_json = demo_api.http.post("/v1/classify", json=body).json()
    assert [len(entry["labels"]) for entry in by_form["data"]] == [1, 1]
    for form, wanted in zip(by_form["data"], by_json["data"], strict=True):
        assert form["labels"][0]["label"] == "cat"
        assert form["labels"][0]["probability"] == pytest.approx(wanted["labels"][0]["probability"], abs=1e-4)


def test_ranking_finds_the_caption_of_a_photo(demo_api: LiveApi, cat: bytes) -> None:
    candidates = ["a photo of a rocket.", {"text": "a photo of a cat."}, {"image": b64(cat)}]
    answer = demo_api.http.post("/v1/rank", json={"query": {"image": b64(cat)}, "candidates": candidates})
    said = RankAnswer.model_validate(answer.json())
    assert [entry["index"] for entry in said.data] == [2, 1, 0]
    assert said.data[0]["similarity"] == pytest.approx(1, abs=1e-5)


def test_embeddings_of_texts_and_pictures_keep_their_order(api: LiveApi) -> None:
    red_image, blue_image = ({"image": b64(plain(color))} for color in ("red", "blue"))
    inputs = ["a fox", red_image, {"text": "a hen"}, blue_image, "a fox"]
    said = EmbeddingsAnswer.model_validate(api.http.post("/v1/embeddings", json={"input": inputs}).json())
    rows = np.array([entry["embedding"] for entry in said.data])
    assert [entry["index"] for entry in said.data] == [0, 1, 2, 3, 4]
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    for index, text in ((0, "a fox"), (2, "a hen"), (4, "a fox")):
        assert rows[index] == pytest.approx(text_vector(text), abs=1e-5)
    red, blue = rows[1].reshape(3, 16).sum(1), rows[3].reshape(3, 16).sum(1)
    assert (red.argmax(), blue.argmax()) == (0, 2)
    assert said.usage["prompt_tokens"] == 4 * 3


def test_embeddings_by_form_keep_the_order_of_the_parts(api: LiveApi) -> None:
    parts: list[tuple[str, Any]] = [
        ("text", (None, "a fox")),
        ("image", ("x.png", plain("red"))),
        ("text", (None, "a hen")),
        ("dimensions", (None, "48")),
    ]
    by_form = api.http.post("/v1/embeddings", files=parts).json()
    body = {"input": ["a fox", {"image": b64(plain("red"))}, "a hen"]}
    assert by_form["data"] == api.http.post("/v1/embeddings", json=body).json()["data"]


def test_fewer_dimensions_have_unit_length_and_base64_is_little_endian_float32(api: LiveApi) -> None:
    body = {"input": "a fox", "dimensions": 7}
    numbers = api.http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    packed = api.http.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()["data"][0]
    assert np.frombuffer(base64.b64decode(packed["embedding"]), "<f4") == pytest.approx(numbers, abs=1e-7)
    assert len(numbers) == 7
    assert np.linalg.norm(numbers) == pytest.approx(1, abs=1e-6)


def test_probabilities_follow_the_model_s_rule_and_templates_are_averaged(
    api: LiveApi, tiny_clip: TinyClip
) -> None:
    picture, labels, templates = plain("red"), ["fox", "hen", "owl"], ["a {label}.", "my {label} {x}"]
    answer = api.http.post(
        "/v1/classify", json={"images": [b64(picture)], "labels": labels, "templates": templates}
    ).json()
    pixels = tiny_clip.preprocess(Image.open(io.BytesIO(picture)))
    image = tiny_clip.encode_images(pixels[None])[0]
    rows = []
    for label in labels:
        mean = np.mean([text_vector(template.replace("{label}", label)) for template in templates], axis=0)
        rows.append(mean / np.linalg.norm(mean))
    cosines = np.stack(rows) @ image
    chances = np.exp(50 * cosines) / np.exp(50 * cosines).sum()
    order = np.argsort(-cosines)
    scores = answer["data"][0]["labels"]
    assert [score["label"] for score in scores] == [labels[i] for i in order]
    assert [score["similarity"] for score in scores] == pytest.approx(cosines[order], abs=1e-5)
    assert [score["probability"] for score in scores] == pytest.approx(chances[order], abs=1e-4)
    assert answer["usage"] == {"images": 1, "texts": 6}


def test_labels_are_encoded_once(api: LiveApi, tiny_clip: TinyClip) -> None:
    body = {"images": [b64(plain("red"))], "labels": ["fox", "hen"], "templates": ["a {label}."]}
    tiny_clip.texts.clear()
    for _ in range(3):
        assert api.http.post("/v1/classify", json=body).status_code == 200
    api.http.post("/v1/embeddings", json={"input": ["a fox.", "a cow."]})
    assert tiny_clip.texts == ["a fox.", "a hen.", "a cow."]
    assert 'clipcanvas_text_cache_lookups_total{result="hit"} 1.0' in api.http.get("/metrics").text


@pytest.mark.parametrize(("exact", "size"), [(False, (200, 150)), (True, (800, 600))])
def test_large_jpegs_are_decoded_small_unless_they_are_to_be_exact(
    start_api: StartApi, exact: bool, size: tuple[int, int]
) -> None:
    class SizedClip(TinyClip):
        draft_size = 100
        seen: list[tuple[tuple[int, int], bool]] = []  # noqa: RUF012  # of this test alone

        def preprocess(self, image: Image.Image, *, exact: bool = True) -> Pixels:
            self.seen.append((image.size, exact))
            return super().preprocess(image, exact=exact)

    clip = SizedClip()
    api = start_api(load_clip=lambda name: clip, exact_decode=exact).ready()
    photo = png(Image.fromarray(skimage.data.coffee()).resize((800, 600)), "JPEG")
    assert api.http.post("/v1/embeddings", json={"input": {"image": b64(photo)}}).status_code == 200
    assert clip.seen == [(size, exact)]


def test_the_same_text_at_once_is_encoded_once(start_api: StartApi) -> None:
    clip = TinyClip(delay_s=0.1)
    api = start_api(load_clip=lambda name: clip).ready()
    clip.texts.clear()

    def ask(index: int) -> list[float]:
        body = {"input": ["a fox", f"text {index % 2}"]}
        return list(api.http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"])

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    assert all(answer == pytest.approx(text_vector("a fox"), abs=1e-6) for answer in answers)
    assert sorted(clip.texts) == ["a fox", "text 0", "text 1"]


def test_pictures_of_one_size_and_color_are_not_confused(api: LiveApi) -> None:
    pictures = [{"image": b64(plain(color))} for color in ("red", "green", "blue", "red")]
    answers = [api.http.post("/v1/embeddings", json={"input": picture}).json() for picture in pictures]
    rows = [tuple(answer["data"][0]["embedding"]) for answer in answers]
    assert rows[0] == rows[3]
    assert len(set(rows)) == 3


def test_64_callers_at_once_each_get_their_own_vector(start_api: StartApi) -> None:
    clip = TinyClip(delay_s=0.02)
    api = start_api(load_clip=lambda name: clip).ready()
    pictures = [plain(f"#{index * 3:02x}{255 - index * 3:02x}80") for index in range(64)]
    expected = [
        clip.encode_images(clip.preprocess(Image.open(io.BytesIO(picture)).convert("RGB"))[None])[0]
        for picture in pictures
    ]
    clip.batches.clear()

    def ask(index: int) -> tuple[list[float], list[float]]:
        body = {"input": [{"image": b64(pictures[index])}, f"text {index}"]}
        data = api.http.post("/v1/embeddings", json=body).json()["data"]
        return data[0]["embedding"], data[1]["embedding"]

    with ThreadPoolExecutor(64) as pool:
        for index, (image, text) in enumerate(pool.map(ask, range(64))):
            assert image == pytest.approx(expected[index], abs=1e-6)
            assert text == pytest.approx(text_vector(f"text {index}"), abs=1e-6)
    assert len(clip.batches) < 64, "they shared batches"


def test_a_truncated_jpeg_among_good_ones_harms_nobody(api: LiveApi, cat: bytes) -> None:
    def ask(index: int) -> httpx.Response:
        picture = cat[: len(cat) // 2] if index == 3 else cat
        return api.http.post("/v1/embeddings", json={"input": {"image": b64(picture)}})

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    assert [answer.status_code for answer in answers] == [200, 200, 200, 422, 200, 200]
    assert api.http.post("/v1/embeddings", json={"input": "a fox"}).status_code == 200


def test_an_item_that_breaks_the_model_is_one_caller_s_500_without_a_word_of_why(
    start_api: StartApi,
) -> None:
    api = start_api(load_clip=lambda name: TinyClip(delay_s=0.05)).ready()

    def ask(index: int) -> httpx.Response:
        return api.http.post("/v1/embeddings", json={"input": "poison" if index == 2 else f"text {index}"})

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    assert [answer.status_code for answer in answers] == [200, 200, 500, 200, 200, 200]
    assert answers[2].json()["code"] == "internal_error"
    assert "secret" not in answers[2].text
    assert answers[2].headers["x-request-id"] == answers[2].json()["request_id"]


def test_callers_that_hang_up_are_dropped_and_the_rest_is_served(start_api: StartApi) -> None:
    opened = threading.Event()
    opened.set()

    class GatedClip(TinyClip):
        def encode_texts(self, texts: Sequence[str]) -> Embeddings:
            assert opened.wait(30)
            return super().encode_texts(texts)

    clip = GatedClip()
    api = start_api(load_clip=lambda name: clip, max_batch_texts=1).ready()
    clip.texts.clear()
    opened.clear()  # the device is busy

    def hang_up(index: int) -> None:
        with httpx.Client(base_url=api.url) as http, pytest.raises(httpx.TimeoutException):
            http.post("/v1/embeddings", json={"input": f"left {index}"}, timeout=1)

    def stay() -> int:
        return httpx.post(f"{api.url}/v1/embeddings", json={"input": "stayed"}, timeout=60).status_code

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(hang_up, range(20)))
        staying = pool.submit(stay)
        time.sleep(1)
        opened.set()
        assert staying.result() == 200
    # the one that the device had begun with cannot be dropped
    assert sum(text.startswith("left") for text in clip.texts) <= 1
    assert "stayed" in clip.texts


def test_metrics_tell_of_batches_and_requests(api: LiveApi) -> None:
    api.http.post("/v1/embeddings", json={"input": ["a fox", {"image": b64(plain("red"))}]})
    api.http.get("/nowhere")
    told = api.http.get("/metrics").text
    for line in (
        'clipcanvas_http_requests_total{method="POST",route="/v1/embeddings",status="200"} 1.0',
        'clipcanvas_http_requests_total{method="GET",route="unmatched",status="404"} 1.0',
        'clipcanvas_clip_batch_size_count{tower="text"} 1.0',
        'clipcanvas_clip_batch_size_count{tower="image"} 1.0',
        'clipcanvas_problems_total{code="not_found"} 1.0',
        'clipcanvas_jobs{state="queued"} 0.0',
        "clipcanvas_redis_up 1.0",
    ):
        assert line in told
    assert json.dumps("nowhere") not in told
