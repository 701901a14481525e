"""Any number of pictures goes through the client in pieces, and a damaged one costs nobody else's answer."""

from pathlib import Path

import pytest
from PIL import Image

from clipcanvas import ApiError, AsyncClient, Client, Many, NewImage
from clipcanvas import batches as batching
from clipcanvas.results import Classification, Embedding
from tests.integration.conftest import StartApi, plain
from tests.live_api import LiveApi

COLORS = ("red", "green", "blue", "yellow", "black")
LABELS = ("a fox", "a hen")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Five pictures, a damaged file among them, and one that is not there."""
    paths = [tmp_path / f"{color}.png" for color in COLORS]
    for path in paths:
        path.write_bytes(plain(path.stem))
    damaged, missing = tmp_path / "damaged.png", tmp_path / "missing.png"
    damaged.write_bytes(b"no picture")
    return [*paths[:2], damaged, *paths[2:4], missing, paths[4]]


def failed_alone(many: Many[Classification] | Many[Embedding]) -> bool:
    assert set(many.failed) == {2, 5}
    assert "not a picture" in many.failed[2]
    assert "missing.png" in many.failed[5]
    return [row is None for row in many.data] == [place in (2, 5) for place in range(7)]


async def test_each_row_is_what_its_picture_alone_would_get(api: LiveApi, pictures: list[Path]) -> None:
    told: list[int] = []
    with Client(api.url) as client:
        many = client.classify_many(pictures, LABELS, top_k=1, most=3, progress=told.append)
        assert failed_alone(many)
        assert told == [3, 6, 7]
        for place, row in enumerate(many.data):
            if row is not None:
                [alone] = client.classify(pictures[place], LABELS, top_k=1).data[0].labels
                assert (row.index, row.labels[0].label) == (place, alone.label)
                assert row.labels[0].similarity == pytest.approx(alone.similarity, abs=1e-6)
        mixed = client.embed_many(["a fox", *pictures, Image.new("RGB", (8, 8))], most=4)
        assert set(mixed.failed) == {3, 6}
        rows = [row.embedding if row else None for row in mixed.data]
        assert rows[0] == pytest.approx(client.embed("a fox").vectors[0], abs=1e-6)
        assert rows[7] == pytest.approx(client.embed(pictures[6]).vectors[0], abs=1e-6)
    async with AsyncClient(api.url) as other:
        assert failed_alone(await other.classify_many(pictures, LABELS, most=2))
        assert failed_alone(await other.embed_many(pictures, most=7))


def test_pieces_keep_to_the_limits_by_count_and_by_bytes(
    start_api: StartApi, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = start_api(max_images=2).ready()
    sound = [path for path in pictures if path.stem in COLORS]
    with Client(api.url) as client:
        assert client.classify_many(sound, LABELS, most=2).failed == {}
        monkeypatch.setattr(batching, "PIECE_BYTES", sound[0].stat().st_size + 1)
        many = client.classify_many(sound, LABELS, most=5)
    assert None not in many.data


def test_a_picture_too_large_for_any_request_fails_alone(start_api: StartApi, pictures: list[Path]) -> None:
    api = start_api(max_body_bytes=2_000).ready()
    Image.effect_noise((64, 64), 50).save(pictures[1])
    with Client(api.url) as client:
        many = client.classify_many(pictures[:2], LABELS, most=1)
    assert many.data[0] is not None
    assert list(many.failed) == [1]


def test_what_is_wrong_with_the_request_itself_is_an_error(api: LiveApi, pictures: list[Path]) -> None:
    with Client(api.url) as client:
        with pytest.raises(ApiError, match="labels"):
            client.classify_many(pictures, [])
        assert client.classify_many([], LABELS) == Many([])
        with pytest.raises(TypeError, match="an image is"):
            client.classify_many([NewImage()], LABELS)
