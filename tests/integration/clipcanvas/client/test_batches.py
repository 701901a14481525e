"""Any number of images goes through the client in pieces, and a damaged one costs nobody else's answer."""

from pathlib import Path

import pytest
from PIL import Image

from clipcanvas import ApiError, AsyncClient, Client, Many, NewImage
from clipcanvas.client import batches as batching
from clipcanvas.client.results import Classification, Embedding
from tests.support.images import plain
from tests.support.live_api import LiveApi, StartApi

COLORS = ("red", "green", "blue", "yellow", "black")
LABELS = ("a fox", "a hen")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Five images, a damaged file among them, and one that is not there."""
    paths = [tmp_path / f"{color}.png" for color in COLORS]
    for path in paths:
        path.write_bytes(plain(path.stem))
    damaged, missing = tmp_path / "damaged.png", tmp_path / "missing.png"
    damaged.write_bytes(b"no image")
    return [*paths[:2], damaged, *paths[2:4], missing, paths[4]]


def failed_alone(many: Many[Classification] | Many[Embedding]) -> bool:
    assert set(many.failed) == {2, 5}
    assert "not an image" in many.failed[2]
    assert "missing.png" in many.failed[5]
    return [row is None for row in many.data] == [place in (2, 5) for place in range(7)]


async def test_each_row_is_what_its_image_alone_would_get(api: LiveApi, images: list[Path]) -> None:
    told: list[int] = []
    with Client(api.url) as client:
        many = client.classify_many(images, LABELS, top_k=1, most=3, progress=told.append)
        assert failed_alone(many)
        assert told == [3, 6, 7]
        for place, row in enumerate(many.data):
            if row is not None:
                [alone] = client.classify(images[place], LABELS, top_k=1).data[0].labels
                assert (row.index, row.labels[0].label) == (place, alone.label)
                assert row.labels[0].similarity == pytest.approx(alone.similarity, abs=1e-6)
        mixed = client.embed_many(["a fox", *images, Image.new("RGB", (8, 8))], most=4)
        assert set(mixed.failed) == {3, 6}
        rows = [row.embedding if row else None for row in mixed.data]
        assert rows[0] == pytest.approx(client.embed("a fox").vectors[0], abs=1e-6)
        assert rows[7] == pytest.approx(client.embed(images[6]).vectors[0], abs=1e-6)
    async with AsyncClient(api.url) as other:
        assert failed_alone(await other.classify_many(images, LABELS, most=2))
        assert failed_alone(await other.embed_many(images, most=7))


def test_pieces_keep_to_the_limits_by_count_and_by_bytes(
    start_api: StartApi, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = start_api(max_images=2).ready()
    sound = [path for path in images if path.stem in COLORS]
    with Client(api.url) as client:
        assert client.classify_many(sound, LABELS, most=2).failed == {}
        monkeypatch.setattr(batching, "BULK_BYTES", sound[0].stat().st_size + 1)
        told: list[int] = []
        assert None not in client.embed_many(sound, progress=told.append).data
    assert told == [1, 2, 3, 4, 5]


def test_embeddings_go_in_bulk(start_api: StartApi, images: list[Path]) -> None:
    api = start_api(max_images=2, max_text_chars=20).ready()
    told: list[int] = []
    with Client(api.url) as client:
        many = client.embed_many([*images, "a fox", "x" * 21, ""], dimensions=8, progress=told.append)
        assert (len(many.data), told) == (10, [10])
        assert [place for place, row in enumerate(many.data) if row is None] == [2, 5, 8, 9]
        assert "21 characters" in many.failed[8]
        row = many.data[7]
        assert row is not None
        assert (row.index, row.embedding) == (7, client.embed("a fox", dimensions=8).vectors[0])
        with pytest.raises(ApiError, match="nobody"):
            client.embed_many(images, model="nobody")


def test_a_image_too_large_for_any_request_fails_alone(start_api: StartApi, images: list[Path]) -> None:
    api = start_api(max_body_bytes=2_000).ready()
    Image.effect_noise((64, 64), 50).save(images[1])
    with Client(api.url) as client:
        many = client.classify_many(images[:2], LABELS, most=1)
        rows = client.embed_many([images[1], images[0], images[3]])
    assert many.data[0] is not None
    assert list(many.failed) == [1]
    assert [row is None for row in rows.data] == [True, False, False]
    assert "longer than 2000 bytes" in rows.failed[0]


def test_what_is_wrong_with_the_request_itself_is_an_error(api: LiveApi, images: list[Path]) -> None:
    with Client(api.url) as client:
        with pytest.raises(ApiError, match="labels"):
            client.classify_many(images, [])
        assert client.classify_many([], LABELS) == Many([])
        with pytest.raises(TypeError, match="an image is"):
            client.classify_many([NewImage()], LABELS)
