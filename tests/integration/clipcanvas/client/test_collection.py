"""Collections from outside: the clients, the commands, and the example, against a real service."""

import asyncio
import io
import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_image

from clipcanvas import AsyncClient, Client, NewImage, QueryPart
from clipcanvas.cli.main import main
from tests.support.images import plain
from tests.support.live_api import LiveApi, TinyClip, live_api
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).parents[4]
COLORS = ("red", "green", "blue", "yellow")
Run = Callable[..., int]


@pytest.fixture(scope="module")
def shared(redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    store = tmp_path_factory.mktemp("store").as_uri()
    models = ["demo-photo", "demo-icons"]
    with live_api(redis_process.url, store, lambda name: TinyClip(), clip_models=models) as api:
        yield api.ready()


@pytest.fixture
def api(shared: LiveApi, redis_server: RedisServer) -> LiveApi:
    return shared


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, one with metadata, one damaged, and files that are none."""
    root = tmp_path / "images"
    for color in COLORS:
        path = root / ("warm" if color in ("red", "yellow") else "cold") / f"{color}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(plain(color))
    (root / "warm" / "red.json").write_text('{"year": 1980}')
    (root / "broken.jpg").write_bytes(b"no image")
    (root / "notes.txt").write_text("hello")
    (root / ".hidden.png").write_bytes(plain("gray"))
    return root


@pytest.fixture
def run(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process; the exit code."""

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["clipcanvas", *words, "--url", api.url])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return call


def test_a_folder_is_indexed_past_its_damaged_files_and_only_once(
    run: Run, api: LiveApi, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("index", str(folder), "--collection", "c", "--batch", "2", "--json") == 1
    first = json.loads(capsys.readouterr().out)
    assert (first["added"], first["known"], list(first["failed"])) == (4, 0, ["broken.jpg"])
    assert run("index", str(folder), "-c", "c") == 1
    printed = capsys.readouterr()
    assert "0 added, 4 known already, 1 failed" in printed.out
    assert "broken.jpg: not an image" in printed.err
    (folder / "broken.jpg").unlink()
    assert run("index", str(folder), "-c", "c", "--again") == 0
    assert "4 added" in capsys.readouterr().out
    with Client(api.url) as client:
        images = list(client.collection("c").every_image())
    assert [image.id for image in images] == [
        "cold/blue.png",
        "cold/green.png",
        "warm/red.png",
        "warm/yellow.png",
    ]
    assert images[2].metadata == {"year": 1980}


def test_commands_find_count_compare_move_and_forget(
    run: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("index", str(folder), "-c", "c", "--thumbnails")
    capsys.readouterr()
    red = str(folder / "warm" / "red.png")
    assert run("search", "c", red, "--top-k", "1", "--json") == 0
    [hit] = json.loads(capsys.readouterr().out)["data"]
    assert (hit["id"], hit["metadata"]) == ("warm/red.png", {"year": 1980})
    assert run("search", "c", "a fox", "--not", red, "--filter", ".year > 1", "--exact") == 0
    assert "warm/red.png" in capsys.readouterr().out
    assert run("search", "c", "a fox", "--filter", "year") == 4
    assert "#/filter" in capsys.readouterr().err
    assert run("collections", "list") == 0
    assert "demo-photo" in capsys.readouterr().out
    assert run("collections", "classify", "c", "fox", "hen", "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4
    assert run("collections", "duplicates", "c", "--threshold", "0.1") == 0
    assert "warm/yellow.png" in capsys.readouterr().out
    file = tmp_path / "c.ndjson"
    assert run("collections", "export", "c", str(file)) == 0
    assert run("collections", "import", str(file), "--collection", "copy") == 0
    assert capsys.readouterr().out.splitlines() == [f"4 images in {file}", "4 images in copy"]
    assert run("collections", "reindex", "c", "icons", "--model", "demo-icons") == 0
    assert capsys.readouterr().out == "4 images in icons\n"
    assert run("collections", "show", "icons") == 0
    assert "demo-icons" in capsys.readouterr().out
    assert run("collections", "create", "icons", "--model", "demo-photo") == 4
    assert run("collections", "delete", "copy", "--yes") == 0
    assert run("collections", "show", "copy") == 4
    assert run("collections", "export", "copy", str(tmp_path / "copy.ndjson")) == 4
    assert not [path for path in tmp_path.iterdir() if "copy" in path.name], "nothing half-written is left"
    (tmp_path / "bad").write_text("{}\n")
    assert run("collections", "import", str(tmp_path / "bad")) == 2


def test_both_clients_speak_of_collections_alike(api: LiveApi) -> None:
    with Client(api.url) as client:
        there = client.collection("c")
        assert there.create(quantization="none").count == 0
        added = there.add([NewImage(plain(color), id=color, metadata={"n": 1}) for color in COLORS])
        assert [entry.created for entry in added.data] == [True] * 4
        red = Image.open(io.BytesIO(plain("red")))
        assert there.search(red, top_k=1).data[0].id == "red"
        both = there.search_all(["a fox", [QueryPart(id="red"), QueryPart(text="a hen", weight=-0.1)]])
        vector = there.image("red", vector=True).vector
        assert there.search(QueryPart(vector=vector), top_k=1).data[0].id == "red"
        assert there.describe("red", {"n": 2}).metadata == {"n": 2}
        [near] = [entry for entry in there.every_duplicate(threshold=0) if entry.id == "blue"]
        assert len(near.duplicates) == 3
        exported = list(there.export())
        there.remove("yellow")
        assert client.collections().data[0].count == 3

    async def same() -> None:
        async with AsyncClient(api.url) as other:
            here = other.collection("c")
            await here.add([NewImage(plain("yellow"), id="yellow", metadata={"n": 1})])
            assert [image.id async for image in here.every_image()] == sorted(COLORS)
            query = [QueryPart(id="red"), QueryPart(text="a hen", weight=-0.1)]
            assert await here.search_all(["a fox", query]) == await here.search_all(["a fox", query])
            again = await here.search_all(["a fox", query])
            assert [hit.id for hit in again.data[0].data] == [hit.id for hit in both.data[0].data]
            assert [line["id"] async for line in here.export() if "id" in line] == [
                line["id"] for line in exported[1:]
            ]
            assert len([entry async for entry in here.every_duplicate(threshold=0)]) == 3

    asyncio.run(same())


def test_the_example_tells_a_cat_and_finds_photos_by_text(
    demo_api: LiveApi, redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = {
        "a.jpg": skimage.data.coffee(),
        "b.jpg": skimage.data.rocket(),
        "c.jpg": load_sample_image("china.jpg"),
        "d.jpg": skimage.data.chelsea(),
    }
    for name, pixels in photos.items():
        Image.fromarray(pixels).save(tmp_path / name)
    example = runpy.run_path(str(ROOT / "examples" / "search.py"))
    example["main"](tmp_path, ["a cup of coffee", "a rocket taking off", "a Chinese temple"], demo_api.url)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("a cat")
    assert "4 pictures added, 0 known, 0 unreadable" in lines
    for text, name in (("a cup of coffee", "a"), ("a rocket taking off", "b"), ("a Chinese temple", "c")):
        assert lines[lines.index(text) + 1].endswith(f"{name}.jpg")
