"""Jobs that index, from the command line and from Python."""

import io
import json
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clipcanvas import AsyncClient, Client
from clipcanvas.cli.main import main
from tests.support.images import plain
from tests.support.live_api import LiveApi, StartApi
from tests.support.redis_server import RedisServer
from tests.support.worker import Indexer

Run = Callable[..., int]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for color in ("red", "green", "blue"):
        (folder / f"{color}.png").write_bytes(plain(color))
    (folder / "broken.png").write_bytes(b"broken")
    return folder


@pytest.fixture
def tar(photos: Path, tmp_path: Path) -> Path:
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as file:
        file.add(photos, arcname="p")
        long = tarfile.TarInfo("notes.bin")  # so that it is sent in several pieces
        long.size = 3_000_000
        file.addfile(long, io.BytesIO(bytes(long.size)))
    return path


@pytest.fixture
def api(start_api: StartApi, redis_server: RedisServer, photos: Path) -> Iterator[LiveApi]:
    """An API, and an indexer that takes what comes."""
    api = start_api(index_roots={"photos": photos}).ready()
    indexer, over = Indexer(api), threading.Event()

    def work() -> None:
        while not over.wait(0.1):
            indexer.attempts.run_job("ticket")

    thread = threading.Thread(target=work)
    thread.start()
    yield api
    over.set()
    thread.join(10)


@pytest.fixture
def run(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["clipcanvas", *words, "--url", api.url])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return call


def test_a_folder_of_the_service_is_indexed_from_the_command_line(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("index", "--server-folder", "photos", "-c", "c") == 1
    told = capfd.readouterr()
    assert told.out.strip() == "3 added, 0 replaced, 0 known already, 1 failed"
    assert "photos/broken.png: not an image of a known format" in told.err
    assert run("index", "--server-folder", "photos", "-c", "c", "--json") == 1
    assert json.loads(capfd.readouterr().out)["known"] == 3
    assert run("collections", "show", "c", "--json") == 0
    assert json.loads(capfd.readouterr().out)["count"] == 3


def test_a_tar_is_sent_from_the_command_line(run: Run, tar: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("index", "--tar", str(tar), "-c", "c", "--again") == 1
    assert capfd.readouterr().out.strip() == "3 added, 0 replaced, 0 known already, 1 failed"
    assert run("index", "--tar", str(tar), "-c", "c", "--detach") == 0
    job_id = capfd.readouterr().out.strip()
    assert run("jobs", "wait", job_id) == 0
    assert run("jobs", "show", job_id) == 0
    assert run("jobs", "list") == 0


def test_addresses_that_are_not_fetched_are_said_so(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "urls.txt"
    lines.write_text("https://example.com/a.jpg\n\n")
    assert run("index", "--urls", str(lines), "-c", "c") == 4
    assert "CLIPCANVAS_FETCH_URLS is off" in capfd.readouterr().err


def test_exactly_one_source_must_be_given(run: Run, photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("index", "-c", "c") == 2
    assert run("index", str(photos), "--server-folder", "photos", "-c", "c") == 2
    assert "give one of" in capfd.readouterr().err


def test_from_python_a_job_indexes_and_is_reported(api: LiveApi, tar: Path) -> None:
    with Client(api.url) as client:
        pets = client.collection("pets")
        pets.create()
        job = client.wait(pets.index(folder="photos", metadata={"order": "7"}).id)
        assert (job.type, job.generator, job.metadata) == ("index", None, {"order": "7"})
        report = client.index_report(job.id)
        assert (report.added, report.refused) == (3, 1)
        assert [item.id for item in report.refusals] == ["photos/broken.png"]
        assert client.index_report(client.wait(pets.index(archive=tar, replace=True).id).id).added == 3


async def test_from_python_it_can_be_awaited(api: LiveApi, tar: Path) -> None:
    async with AsyncClient(api.url) as client:
        pets = client.collection("pets")
        await pets.create()
        job = await client.wait((await pets.index(archive=tar)).id)
        assert (await client.index_report(job.id)).added == 3
