"""Weaviate and Immich find here what their own containers would tell them."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.images import b64, plain, png
from tests.support.live_api import LiveApi, StartApi, TinyClip, text_vector


@pytest.fixture
def neighbors(start_api: StartApi) -> LiveApi:
    return start_api(compat=["weaviate", "immich"]).ready()


def predict(api: LiveApi, entries: Any, **parts: Any) -> httpx.Response:
    values = {"entries": json.dumps(entries), **parts}
    files = {name: ("blob" if isinstance(value, bytes) else None, value) for name, value in values.items()}
    return api.http.post("/predict", files=files)


def visual(name: str = "demo-photo") -> dict[str, Any]:
    return {"clip": {"visual": {"modelName": name}}}


def textual(name: str = "demo-photo") -> dict[str, Any]:
    return {"clip": {"textual": {"modelName": name, "options": {"language": "de"}}}}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/meta"),
        ("GET", "/.well-known/live"),
        ("GET", "/.well-known/ready"),
        ("POST", "/vectorize"),
        ("GET", "/ping"),
        ("POST", "/predict"),
    ],
)
def test_they_are_off_unless_asked_for(api: LiveApi, method: str, path: str) -> None:
    assert api.http.request(method, path).status_code == 404
    assert path not in api.http.get("/openapi.json").json()["paths"]


def test_weaviate_gets_a_vector_for_each(neighbors: LiveApi, tiny_clip: TinyClip) -> None:
    http = neighbors.http
    assert [http.get(f"/.well-known/{word}").status_code for word in ("live", "ready")] == [204, 204]
    assert http.get("/meta").json() == {"model": "tiny", "embedding_dim": 48, "image_size": 16}
    body = {"texts": ["a fox", ""], "images": [b64(plain("red")), b64(plain("blue")), b64(plain("red"))]}
    tiny_clip.batches.clear()
    said = http.post("/vectorize", json=body).json()
    assert np.array(said["textVectors"]).shape == (2, 48)
    assert said["textVectors"][0] == pytest.approx(list(text_vector("a fox")), abs=1e-6)
    assert said["imageVectors"][0] == said["imageVectors"][2] != said["imageVectors"][1]
    assert len(tiny_clip.batches) <= 4, "pictures go together"
    assert http.post("/vectorize", json={"texts": ["a fox"]}).json()["imageVectors"] == []
    assert http.post("/vectorize", json={}).json() == {"textVectors": [], "imageVectors": []}


def test_long_texts_are_read_as_far_as_the_model_can(neighbors: LiveApi, tiny_clip: TinyClip) -> None:
    words = " ".join(f"word{number}" for number in range(500))
    said = neighbors.http.post("/vectorize", json={"texts": [words]}).json()
    [read] = [text for text in tiny_clip.texts if text.startswith("word0")]
    assert read.split() == [f"word{number}" for number in range(18)]
    assert said["textVectors"][0] == pytest.approx(list(text_vector(read)), abs=1e-6)
    assert predict(neighbors, textual(), text=words).status_code == 200


def test_a_bad_picture_of_weaviate_s_is_no_500(neighbors: LiveApi) -> None:
    answer = neighbors.http.post("/vectorize", json={"images": [b64(plain("red")), "AAAA"]})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (415, "#/images/1")
    answer = neighbors.http.post("/vectorize", json={"texts": "a fox"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/texts")


def test_immich_gets_its_vector_as_json_in_a_text(neighbors: LiveApi) -> None:
    assert neighbors.http.get("/ping").text == "pong"
    said = predict(neighbors, textual(), text="a fox").json()
    assert set(said) == {"clip"}
    assert json.loads(said["clip"]) == pytest.approx(list(text_vector("a fox")), abs=1e-6)
    seen = predict(neighbors, visual(), image=png(Image.new("RGB", (40, 30), "red"), "WEBP")).json()
    assert (seen["imageWidth"], seen["imageHeight"]) == (40, 30)
    assert len(json.loads(seen["clip"])) == 48


def test_immich_s_names_for_models_are_known(start_api: StartApi) -> None:
    api = start_api(compat=["immich"], clip_models=["demo-photo", "ViT-B-32", "ViT-B-32-laion2b"]).ready()
    for name in ("ViT-B-32__openai", "ViT-B-32__laion2b-s34b-b79k", "ViT-B-32"):
        assert predict(api, textual(name), text="a fox").status_code == 200
    answer = predict(api, textual("ViT-L-14__openai"), text="a fox")
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("entries", "parts", "pointer"),
    [
        (visual(), {"text": "a fox"}, "#/entries/clip"),
        (textual(), {}, "#/entries/clip"),
        ({"clip": {}}, {"text": "a fox"}, "#/entries/clip"),
        ({"facial-recognition": {}}, {"image": plain("red")}, "#/entries/clip"),
        ({"clip": {"visual": {}}}, {"image": plain("red")}, "#/entries/clip/visual/modelName"),
        ([], {"text": "a fox"}, "#/entries"),
    ],
)
def test_what_is_no_task_of_a_clip_is_told(
    neighbors: LiveApi, entries: Any, parts: dict[str, Any], pointer: str
) -> None:
    answer = predict(neighbors, entries, **parts)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


def test_immich_s_form_must_hold_json_and_a_picture(neighbors: LiveApi) -> None:
    answer = neighbors.http.post("/predict", files={"entries": (None, "{"), "text": (None, "a")})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_body")
    answer = predict(neighbors, visual(), image=b"no picture")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (415, "#/image")
