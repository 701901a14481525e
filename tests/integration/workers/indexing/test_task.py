"""Indexing as a job: many images of a folder, a tar or addresses go into a collection, some are refused."""

import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.dependencies import new_key
from jobs.queue import JobQueue
from storage.blobs import open_store
from storage.redis import connect
from tests.support.images import b64, plain
from tests.support.live_api import LiveApi, StartApi, TinyClip
from tests.support.redis_server import RedisServer
from tests.support.worker import Indexer
from workers.indexing.task import BATCH, Indexing
from workers.runner.attempt import Attempts

TAR = {"content-type": "application/x-tar"}
COUNTS = {"added": 0, "replaced": 0, "known": 0, "refused": 0}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine images, one with metadata, and a file that is none."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for index in range(9):
        name = f"more/{index}.png" if index > 5 else f"{index}.png"
        (folder / name).write_bytes(plain(f"hsl({index * 40}, 90%, 50%)"))
    (folder / "3.json").write_text('{"year": 1990}')
    (folder / "broken.png").write_bytes(b"broken")
    return folder


NAMES = [*(f"{index}.png" for index in range(6)), *(f"more/{index}.png" for index in (6, 7, 8))]


@pytest.fixture
def api(start_api: StartApi, photos: Path) -> LiveApi:
    api = start_api(
        index_roots={"photos": photos},
        fetch_urls=True,
        fetch_allow_http=True,
        fetch_allow_private=True,
        fetch_ports=[443, *range(1024, 65536)],
    ).ready()
    assert api.http.put("/v1/collections/all").status_code == 201
    return api


def ask(api: LiveApi, **body: Any) -> str:
    answer = api.http.post("/v1/jobs", json={"type": "index", "collection": "all", **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def send(api: LiveApi, tar: bytes, **query: Any) -> str:
    answer = api.http.post("/v1/jobs", params={"collection": "all", **query}, content=tar, headers=TAR)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def job(api: LiveApi, job_id: str) -> dict[str, Any]:
    return dict(api.http.get(f"/v1/jobs/{job_id}").json())


def report(api: LiveApi, job_id: str) -> dict[str, Any]:
    told = job(api, job_id)
    assert told["status"] == "succeeded", told["error"]
    [output] = told["outputs"]
    assert (output["name"], output["kind"]) == ("report.json", "report")
    found = dict(api.http.get(output["url"]).json())
    assert told["progress"]["counts"] == {name: found[name] for name in COUNTS}
    assert told["progress"]["step"] == told["progress"]["steps"] == sum(told["progress"]["counts"].values())
    return found


def counts(api: LiveApi, job_id: str) -> dict[str, int]:
    found = report(api, job_id)
    return {name: found[name] for name in COUNTS}


def images(api: LiveApi, name: str = "all") -> dict[str, dict[str, Any]]:
    found = api.http.get(f"/v1/collections/{name}/images", params={"limit": 1000}).json()
    assert not found["has_more"]
    return {image["id"]: image for image in found["data"]}


def tarred(photos: Path, *more: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(photos, arcname=".")
        for name, data in more:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def test_a_folder_is_indexed_past_what_cannot_be_read(api: LiveApi) -> None:
    job_id = ask(api, folder="photos")
    told = job(api, job_id)
    assert (told["type"], told["generator"], told["queue_position"]) == ("index", None, 0)
    Indexer(api).work()
    assert report(api, job_id) == {
        "collection": "all",
        "added": 9,
        "replaced": 0,
        "known": 0,
        "refused": 1,
        "refusals": [
            {
                "id": "photos/broken.png",
                "code": "unsupported_image",
                "detail": "not an image of a known format (JPEG, PNG, WebP, GIF, BMP, TIFF)",
            }
        ],
    }
    found = images(api)
    assert [*found] == [f"photos/{name}" for name in NAMES]
    assert found["photos/3.png"]["metadata"] == {"year": 1990}
    assert job(api, job_id)["attempt"] == 1


def test_vectors_are_those_that_the_api_makes(api: LiveApi, photos: Path) -> None:
    ask(api, folder="photos")
    Indexer(api).work()
    picture = (photos / "4.png").read_bytes()
    found = api.http.post("/v1/collections/all/search", json={"query": {"image": b64(picture)}}).json()[
        "data"
    ]
    assert (found[0]["id"], round(found[0]["similarity"], 2)) == ("photos/4.png", 1.0)


def test_what_is_known_is_not_added_again_unless_asked_for(api: LiveApi, photos: Path) -> None:
    ask(api, folder="photos")
    Indexer(api).work()
    (photos / "new.png").write_bytes(plain("white"))
    second = ask(api, folder="photos")
    clip = TinyClip()
    Indexer(api, clip).work()
    assert {name: report(api, second)[name] for name in COUNTS} == {
        **COUNTS,
        "added": 1,
        "known": 9,
        "refused": 1,
    }
    assert clip.batches == [1], "what is known is not embedded again"
    third = ask(api, folder="photos/more", replace=True)
    Indexer(api).work()
    assert counts(api, third) == {**COUNTS, "replaced": 3}
    assert len(images(api)) == 10


def test_a_tar_is_indexed_and_not_kept(api: LiveApi, photos: Path, tmp_path: Path) -> None:
    noise = io.BytesIO()
    Image.frombytes("RGB", (2000, 1600), os.urandom(9_600_000)).save(noise, "BMP")  # more than one part holds
    job_id = send(
        api,
        tarred(
            photos, ("noise.bmp", noise.getvalue()), ("../out.png", plain("red")), ("/x.png", plain("red"))
        ),
    )
    parts = tmp_path / "store" / job_id
    assert len([*parts.glob("archive-*")]) == 2
    Indexer(api).work()
    found = report(api, job_id)
    assert {name: found[name] for name in COUNTS} == {**COUNTS, "added": 10, "refused": 3}
    assert {item["id"]: item["code"] for item in found["refusals"]} == {
        "broken.png": "unsupported_image",
        "../out.png": "image_id",
        "/x.png": "image_id",
    }
    assert {*images(api)} == {*NAMES, "noise.bmp"}
    assert images(api)["3.png"]["metadata"] == {"year": 1990}
    assert [*parts.glob("archive-*")] == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(b"", 400, "malformed_body", id="nothing"),
        pytest.param(b"x" * 5000, 400, "malformed_body", id="no tar"),
        pytest.param(b"\x1f\x8b" + b"x" * 5000, 400, "malformed_body", id="compressed"),
        pytest.param(b"x" * 300_000, 413, "body_too_large", id="too long"),
    ],
)
def test_what_is_no_tar_is_refused_at_once_and_leaves_nothing(
    start_api: StartApi, tmp_path: Path, body: bytes, status: int, code: str
) -> None:
    api = start_api(max_archive_bytes=200_000).ready()
    api.http.put("/v1/collections/all")
    answer = api.http.post("/v1/jobs", params={"collection": "all"}, content=body, headers=TAR)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert [*(tmp_path / "store").glob("job_*")] == []
    assert api.http.get("/v1/jobs").json()["data"] == []


def test_a_damaged_tar_fails_its_job_and_keeps_what_came_before(api: LiveApi, photos: Path) -> None:
    data = bytearray(tarred(photos))
    first = data.find(b"ustar", 4000)
    data[first - 257 : first + 255] = b"\xff" * 512
    job_id = send(api, bytes(data))
    Indexer(api).work()
    told = job(api, job_id)
    assert (told["status"], told["error"]["code"]) == ("failed", "archive_unreadable")


def test_an_idempotency_key_tells_one_tar_from_another(api: LiveApi, photos: Path, tmp_path: Path) -> None:
    one, other = tarred(photos), tarred(photos, ("x.png", plain("red")))
    post = partial(
        api.http.post, "/v1/jobs", params={"collection": "all"}, headers={**TAR, "Idempotency-Key": "k"}
    )
    first, second, third = post(content=one), post(content=one), post(content=other)
    assert (second.status_code, second.json()["id"]) == (202, first.json()["id"])
    assert second.headers["Idempotent-Replayed"] == "true"
    assert (third.status_code, third.json()["code"]) == (422, "idempotency_conflict")
    assert len([*(tmp_path / "store").glob("job_*")]) == 1


class Images(BaseHTTPRequestHandler):
    """/red.png is an image, /text is none, /gone is not there, /away leads to /red.png."""

    def do_GET(self) -> None:
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", "/red.png")
            self.end_headers()
            return
        bodies = {"/red.png": plain("red"), "/blue.png": plain("blue"), "/text": b"text"}
        found = bodies.get(self.path)
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Length", str(len(found or b"")))
        self.end_headers()
        self.wfile.write(found or b"")

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Images)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_images_at_addresses_are_indexed(api: LiveApi, site: str) -> None:
    urls = [
        f"{site}/red.png",
        {"url": f"{site}/away", "id": "b", "metadata": {"n": 1}},
        f"{site}/text",
        f"{site}/gone",
    ]
    job_id = ask(api, urls=urls)
    Indexer(api).work()
    found = report(api, job_id)
    assert {name: found[name] for name in COUNTS} == {**COUNTS, "added": 2, "refused": 2}
    assert [item["code"] for item in found["refusals"]] == ["unsupported_image", "http_status"]
    kept = images(api)
    assert (kept["b"]["metadata"], kept["b"]["source_url"]) == ({"n": 1}, f"{site}/away")
    [other] = {*kept} - {"b"}
    assert other.startswith("url-")
    assert kept[other]["source_url"] == f"{site}/red.png"
    again = ask(api, urls=urls[:1])
    Indexer(api).work()
    assert report(api, again)["known"] == 1


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"folder": "other"}, "#/folder", "folder_not_allowed"),
        ({"folder": "photos/../.."}, "#/folder", "folder_not_allowed"),
        ({"folder": "photos/./a"}, "#/folder", "folder_not_allowed"),
        ({"folder": "/etc"}, "#/folder", "folder_not_allowed"),
        ({"folder": ""}, "#/folder", "string_too_short"),
        ({}, "#", "value_error"),
        ({"folder": "photos", "urls": ["https://example.com/"]}, "#", "value_error"),
        ({"urls": []}, "#/urls", "too_short"),
        ({"urls": [7]}, "#/urls/0", "model_type"),
        ({"urls": ["https://example.com/", "ftp://example.com/"]}, "#/urls/1", "url_refused"),
        ({"urls": ["https://169.254.169.254/latest"]}, "#/urls/0", "url_refused"),
        ({"urls": [{"url": "https://example.com/", "id": "a//b"}]}, "#/urls/0/id", "image_id"),
        (
            {
                "urls": [
                    {"url": "https://example.com/", "id": "a"},
                    {"url": "https://example.com/b", "id": "a"},
                ]
            },
            "#/urls/1",
            "duplicate_id",
        ),
        ({"folder": "photos", "prompt": "a fox"}, "#/prompt", "extra_forbidden"),
        ({"folder": "photos", "collection": "../x"}, "#/collection", "string_pattern_mismatch"),
    ],
)
def test_a_request_that_cannot_be_is_refused(
    api: LiveApi, body: dict[str, Any], pointer: str, code: str
) -> None:
    answer = api.http.post("/v1/jobs", json={"type": "index", "collection": "all", **body})
    assert answer.status_code == 422, answer.text
    assert [(fault["pointer"], fault["code"]) for fault in answer.json()["errors"]] == [(pointer, code)]


def test_folders_and_addresses_are_off_by_default(start_api: StartApi) -> None:
    api = start_api().ready()
    api.http.put("/v1/collections/all")
    for field, value, code in (
        ("folder", "photos", "folder_not_allowed"),
        ("urls", ["https://example.com/"], "urls_not_fetched"),
    ):
        answer = api.http.post("/v1/jobs", json={"type": "index", "collection": "all", field: value})
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, code)


def test_a_worker_refuses_what_its_own_settings_do_not_allow(api: LiveApi) -> None:
    folder, urls = ask(api, folder="photos"), ask(api, urls=["https://example.com/x.png"])
    Indexer(api, index_roots={}, fetch_urls=False).work()
    assert [job(api, job_id)["error"]["code"] for job_id in (folder, urls)] == [
        "folder_not_allowed",
        "urls_not_fetched",
    ]


def test_only_into_ones_own_collections_and_with_the_scope(start_api: StartApi, photos: Path) -> None:
    (ann, one), (bob, two), (cat, three) = new_key("ann"), new_key("bob"), new_key("cat")
    entries = [json.loads(one), json.loads(two), {**json.loads(three), "scopes": ["jobs"]}]
    api = start_api(index_roots={"photos": photos}, api_keys=entries).ready()
    api.http.put("/v1/collections/all", headers={"Authorization": f"Bearer {ann}"})
    for key, status in ((ann, 202), (bob, 404), (cat, 403)):
        for request in (
            {"json": {"type": "index", "collection": "all", "folder": "photos"}},
            {"params": {"collection": "all"}, "content": tarred(photos)},
        ):
            headers = {"Authorization": f"Bearer {key}", **(TAR if "content" in request else {})}
            assert api.http.post("/v1/jobs", headers=headers, **request).status_code == status


def many(photos: Path, count: int) -> None:
    for index in range(count):
        (photos / f"many-{index:04d}.png").write_bytes(plain(f"hsl({index % 360}, 50%, 50%)", (16, 16)))


def started(indexer: Indexer, jobs: int = 1) -> threading.Thread:
    """Runs so many jobs on another thread, where RQ cannot be."""

    def run() -> None:
        indexer.heartbeat.start()
        for _ in range(jobs):
            indexer.attempts.run_job("ticket")
        indexer.heartbeat.stop()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def wait_until(promise: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not promise():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_begun(api: LiveApi, job_id: str) -> bool:
    progress = job(api, job_id)["progress"]
    return progress is not None and bool(progress["step"])


def test_a_canceled_job_stops_and_what_was_added_stays(api: LiveApi, photos: Path) -> None:
    many(photos, 8 * BATCH)
    job_id = ask(api, folder="photos")
    thread = started(Indexer(api, TinyClip(delay_s=0.3)))
    wait_until(lambda: has_begun(api, job_id))
    assert api.http.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    thread.join(20)
    assert job(api, job_id)["status"] == "canceled"
    assert 0 < len(images(api)) < 8 * BATCH


def test_a_worker_that_is_to_stop_hands_the_job_back_and_the_next_goes_on(api: LiveApi, photos: Path) -> None:
    many(photos, 8 * BATCH)
    job_id = ask(api, folder="photos")
    first = Indexer(api, TinyClip(delay_s=0.2))
    thread = started(first)
    wait_until(lambda: has_begun(api, job_id))
    first.drain.set()
    thread.join(20)
    told = job(api, job_id)
    assert (told["status"], told["attempt"]) == ("queued", 0)
    before = told["progress"]["step"]
    assert 0 < before < 8 * BATCH
    clip = TinyClip()
    Indexer(api, clip).work()
    assert counts(api, job_id) == {**COUNTS, "added": 9 + 8 * BATCH, "refused": 1}
    assert sum(clip.batches) <= 9 + 8 * BATCH - before + 1, "what was done is not done again"
    assert len(images(api)) == 9 + 8 * BATCH


def test_a_collection_that_is_deleted_meanwhile_ends_the_job(api: LiveApi, photos: Path) -> None:
    many(photos, 4 * BATCH)
    waiting, running = ask(api, folder="photos", priority="low"), ask(api, folder="photos")
    thread = started(Indexer(api, TinyClip(delay_s=0.3)), jobs=2)
    wait_until(lambda: has_begun(api, running))
    assert api.http.delete("/v1/collections/all").status_code == 204
    thread.join(20)
    for job_id in (waiting, running):
        assert job(api, job_id)["error"]["code"] == "collection_not_found"
    assert api.http.get("/v1/collections/all").status_code == 404


def test_a_full_server_ends_the_job_and_running_it_again_completes_it(
    api: LiveApi, photos: Path, redis_server: RedisServer
) -> None:
    job_id = ask(api, folder="photos")
    Indexer(api, max_collection_images=4).work()
    told = job(api, job_id)
    assert (told["status"], told["error"]["code"]) == ("failed", "collection_full")
    assert len(images(api)) == 4
    again = ask(api, folder="photos")
    Indexer(api).work()
    assert report(api, again)["known"] == 4
    assert len(images(api)) == 9
    third = ask(api, folder="photos", replace=True)
    Indexer(api, vector_memory_share=1e-9).work()
    assert job(api, third)["status"] == "succeeded", "there is no limit of memory"
    with connect(redis_server.url, patience_s=1) as connection:
        connection.config_set("maxmemory", "1gb")
    try:
        fourth = ask(api, folder="photos", replace=True)
        Indexer(api, vector_memory_share=1e-9).work()
        error = job(api, fourth)["error"]
        assert (error["code"], error["retryable"]) == ("vectors_full", True)
    finally:
        with connect(redis_server.url, patience_s=1) as connection:
            connection.config_set("maxmemory", "0")


def test_small_images_are_kept_if_the_collection_keeps_them(api: LiveApi) -> None:
    api.http.put("/v1/collections/small", json={"thumbnails": True})
    ask(api, collection="small", folder="photos/more")
    Indexer(api).work()
    for image in images(api, "small").values():
        assert api.http.get(image["thumbnail_url"]).headers["content-type"] == "image/jpeg"


def test_a_model_that_the_worker_has_not_ends_the_job(api: LiveApi) -> None:
    def load(name: str) -> TinyClip:
        raise OSError("/secret/path is not there")

    job_id = ask(api, folder="photos")
    indexer = Indexer(api)
    work = Indexing(indexer.settings, open_store(indexer.settings.store), load)
    Attempts(indexer.settings, work, indexer.heartbeat, "w", indexer.drain).run_job("ticket")
    error = job(api, job_id)["error"]
    assert (error["code"], error["detail"]) == ("model_unavailable", "demo-photo could not be loaded")


def test_a_model_whose_weights_are_not_there_says_what_to_type(api: LiveApi, tmp_path: Path) -> None:
    job_id = ask(api, folder="photos")
    (tmp_path / "weights").mkdir()
    indexer = Indexer(api, weights=tmp_path / "weights")
    work = Indexing(indexer.settings, open_store(indexer.settings.store))
    Attempts(indexer.settings, work, indexer.heartbeat, "w", indexer.drain).run_job("ticket")
    error = job(api, job_id)["error"]
    remedy = "`clipcanvas models pull demo-photo` fetches them"
    assert error["code"] == "model_unavailable"
    assert error["detail"] == f"demo-photo could not be loaded: {remedy}"
    told = api.http.get(f"/v1/jobs/{job_id}").text + api.http.get(f"/v1/jobs/{job_id}/events").text
    assert remedy in told
    assert str(tmp_path) not in told, "paths of the machine are for its log"


def test_drawings_and_indexing_do_not_wait_for_each_other(api: LiveApi) -> None:
    drawing = api.http.post("/v1/jobs", json={"prompt": "a fox", "generator": "gradient"}).json()["id"]
    job_id = ask(api, folder="photos", priority="low")
    assert [job(api, each)["queue_position"] for each in (drawing, job_id)] == [0, 0]
    Indexer(api).work()
    assert [job(api, each)["status"] for each in (drawing, job_id)] == ["queued", "succeeded"]
    assert JobQueue(api.settings).counts() == {"queued": 1, "running": 0}


def test_an_empty_folder_is_indexed_in_no_time(api: LiveApi, photos: Path) -> None:
    (photos / "empty").mkdir()
    job_id = ask(api, folder="photos/empty")
    Indexer(api).work()
    assert counts(api, job_id) == COUNTS
