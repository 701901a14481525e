"""Collections when something is missing: an old, full, gone, frozen or restarted Redis, a killed API."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from storage.blobs import open_store
from storage.collections.collection import Collection, CollectionMissing, Image
from storage.collections.vector_sets import VectorSets, VectorsUnsupported
from tests.support.images import b64, plain
from tests.support.live_api import LiveApi, StartApi
from tests.support.redis_server import RedisServer
from workers.janitor import Janitor
from workers.settings import WorkerSettings

JOB = {"prompt": "a fox", "generator": "gradient", "width": 32, "height": 32, "steps": 4}


@pytest.fixture
def vector_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A second server, for vectors alone."""
    folder = tmp_path / "v"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()


def images(count: int, start: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(start)
    return [{"id": f"i{start + n:05}", "vector": rng.normal(size=48).tolist()} for n in range(count)]


def add(api: LiveApi, some: list[dict[str, Any]], name: str = "c") -> httpx.Response:
    return api.http.post(f"/v1/collections/{name}/images", json={"images": some})


@pytest.mark.parametrize("fault", ["gone", "frozen"])
def test_without_their_redis_collections_are_503_and_jobs_go_on(
    start_api: StartApi, vector_redis: RedisServer, fault: str
) -> None:
    api = start_api(vector_redis_url=vector_redis.url, vector_timeout_s=0.5).ready()
    api.http.put("/v1/collections/c")
    assert add(api, images(3)).is_success
    process = vector_redis.process
    assert process is not None
    if fault == "gone":
        vector_redis.stop()
    else:
        process.send_signal(signal.SIGSTOP)
    try:
        for method, path, body in (
            ("PUT", "/v1/collections/d", None),
            ("GET", "/v1/collections", None),
            ("GET", "/v1/collections/c", None),
            ("POST", "/v1/collections/c/images", {"images": images(1)}),
            ("POST", "/v1/collections/c/search", {"query": "a"}),
            ("DELETE", "/v1/collections/c", None),
        ):
            answer = api.http.request(method, path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (503, "vectors_unavailable"), path
            assert int(answer.headers["retry-after"]) > 0
        assert api.http.post("/v1/jobs", json=JOB).status_code == 202
        ready = api.http.get("/readyz")
        assert (ready.status_code, ready.json()["parts"]["vectors"]) == (503, "failed: Redis does not answer")
    finally:
        if fault == "gone":
            vector_redis.start()
        else:
            process.send_signal(signal.SIGCONT)
    api.wait_until(lambda: api.http.get("/readyz").status_code == 200, 15)
    assert api.http.get("/v1/collections/c").json()["count"] in (0, 3) if fault == "frozen" else 3


def test_a_restarted_redis_has_its_collections(start_api: StartApi, redis_server: RedisServer) -> None:
    api = start_api().ready()
    api.http.put("/v1/collections/c")
    assert add(api, images(50)).is_success
    query = {"query": {"vector": images(1)[0]["vector"]}, "top_k": 3}
    before = api.http.post("/v1/collections/c/search", json=query).json()
    with redis.Redis.from_url(redis_server.url) as client:
        client.execute_command("WAITAOF", 1, 0, 5000)  # appendfsync is everysec
    redis_server.stop()
    redis_server.start()
    api.wait_until(lambda: api.http.get("/v1/collections/c").status_code == 200, 15)
    assert api.http.get("/v1/collections/c").json()["count"] == 50
    after = api.http.post("/v1/collections/c/search", json=query).json()
    assert [hit["id"] for hit in after["data"]] == [hit["id"] for hit in before["data"]]


def test_a_full_vector_redis_is_507_and_harms_no_job(start_api: StartApi, vector_redis: RedisServer) -> None:
    api = start_api(vector_redis_url=vector_redis.url, vector_memory_share=1).ready()
    api.http.put("/v1/collections/c")
    assert add(api, images(100)).is_success
    with redis.Redis.from_url(vector_redis.url) as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 600_000)
        answers = [add(api, images(500, start)) for start in range(100, 5000, 500)]
        refused = answers[-1]
        assert (refused.status_code, refused.json()["code"]) == (507, "vectors_full"), refused.text
        assert refused.headers["content-type"] == "application/problem+json"
        found = api.http.post("/v1/collections/c/search", json={"query": "a"})
        assert len(found.json()["data"]) == 10, "what is there is found"
        assert api.http.post("/v1/jobs", json=JOB).status_code == 202
        assert api.http.delete("/v1/collections/c").status_code == 204, "this makes room"
        api.http.put("/v1/collections/c")
        api.wait_until(lambda: add(api, images(10)).is_success)


def test_a_queue_on_the_same_server_keeps_room(start_api: StartApi, redis_server: RedisServer) -> None:
    api = start_api(vector_memory_share=0.5).ready()
    api.http.put("/v1/collections/c")
    with redis.Redis.from_url(redis_server.url) as client:
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", round(used / 0.6))
        try:
            refused = add(api, images(1))
            assert (refused.status_code, refused.json()["code"]) == (507, "vectors_full")
            assert "at most 50% may be" in refused.json()["detail"]
            assert api.http.post("/v1/jobs", json=JOB).status_code == 202
        finally:
            client.config_set("maxmemory", 0)
    assert add(api, images(1)).is_success


class OldRedis:
    """Answers as a Redis 7 does: it knows no vector sets. (No package brings a real one.)"""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            while header := lines.readline():
                words = []
                for _ in range(int(header[1:])):
                    size = int(lines.readline()[1:])
                    words.append(lines.read(size + 2)[:-2])
                if words[0].upper().startswith(b"V"):
                    reply = b"-ERR unknown command '%s', with args beginning with: \r\n" % words[0]
                elif words[0].upper() in (b"HGETALL", b"ZRANGEBYLEX"):
                    reply = b"*0\r\n"
                else:
                    reply = b":0\r\n" if words[0].upper() == b"ZCARD" else b"+OK\r\n"
                connection.sendall(reply)


def test_a_redis_without_vector_sets_is_501_that_says_what_is_needed(start_api: StartApi) -> None:
    old = OldRedis()
    api = start_api(vector_redis_url=old.url).ready()
    answer = api.http.put("/v1/collections/c")
    assert (answer.status_code, answer.json()["code"]) == (501, "vectors_unsupported")
    assert "Redis 8" in answer.json()["detail"]
    assert api.http.get("/v1/collections").json()["data"] == []
    assert api.http.post("/v1/embeddings", json={"input": "a fox"}).status_code == 200
    sets = VectorSets(old.url)
    with pytest.raises(VectorsUnsupported):
        sets.vectors(Collection("", "c", "demo", 4), ["x"])


SERVE = """
import sys
from tests.support.live_api import TinyClip
from app.main import create_app
from app.settings import ApiSettings
import uvicorn
app = create_app(ApiSettings(), load_clip=lambda name: TinyClip(delay_s=0.02))
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_config=None)
"""


def test_an_api_that_is_killed_while_it_adds_leaves_nothing_double_and_nothing_missing(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "CLIPCANVAS_REDIS_URL": redis_server.url,
        "CLIPCANVAS_STORE": (tmp_path / "store").as_uri(),
        "CLIPCANVAS_MAX_BATCH_IMAGES": "4",
    }
    pictures = {f"p{n:03}": b64(plain(f"#{n * 2:02x}80{255 - n * 2:02x}")) for n in range(120)}
    http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)

    def is_up() -> bool:
        try:
            return http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", SERVE, str(port)], env=environment)
        LiveApi.wait_until(is_up, 40)
        return process

    process = start()
    kills = 0
    try:
        http.put("/v1/collections/c", json={"thumbnails": True})
        names = list(pictures)
        at = 0
        while at < len(names):
            batch = [{"id": name, "image": pictures[name]} for name in names[at : at + 30]]
            if at == 30 and kills == 0:
                threading.Timer(0.1, process.kill).start()
                kills += 1
            try:
                assert http.post("/v1/collections/c/images", json={"images": batch}).is_success
                at += 30
            except httpx.TransportError:
                process.wait(10)
                process = start()
        assert http.get("/v1/collections/c").json()["count"] == 120
        listed = http.get("/v1/collections/c/images?limit=1000").json()["data"]
        assert [image["id"] for image in listed] == names
    finally:
        process.kill()
        process.wait(10)
        http.close()
    with redis.Redis.from_url(redis_server.url, protocol=2) as client:
        [key] = client.keys("*:vectors")
        assert client.execute_command("VCARD", key) == 120


def test_one_of_many_who_make_a_collection_at_once_makes_it(redis_server: RedisServer) -> None:
    made: list[Collection] = []

    def make(n: int) -> None:
        sets = VectorSets(redis_server.url)
        made.append(sets.create(Collection("ann", "c", f"model-{n}", 4)))
        sets.close()

    threads = [threading.Thread(target=make, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({collection.uid for collection in made}) == 1
    assert len({collection.model for collection in made}) == 1
    assert [collection.name for collection in VectorSets(redis_server.url).find("ann")] == ["c"]


def test_who_comes_late_writes_nothing_into_a_collection_made_anew(redis_server: RedisServer) -> None:
    sets = VectorSets(redis_server.url)
    old = sets.create(Collection("", "c", "one", 4))
    row = np.array([[1, 0, 0, 0]], np.float32)
    sets.add(old, [Image("x")], row, 10)
    sets.delete(old)
    new = sets.create(Collection("", "c", "two", 4))
    for late in (
        lambda: sets.add(old, [Image("x")], row, 10),
        lambda: sets.remove(old, "x"),
        lambda: sets.describe(old, Image("x", {"a": 1})),
    ):
        with pytest.raises(CollectionMissing):
            late()
    sets.delete(old)  # it is gone already
    assert sets.get("", "c").uid == new.uid
    assert sets.get("", "c").count == 0


def test_thumbnails_that_no_collection_has_are_collected(
    start_api: StartApi, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.janitor.ORPHAN_S", 0)
    api = start_api()
    api.ready()
    api.http.put("/v1/collections/c", json={"thumbnails": True})
    body = {"images": [{"id": "x", "image": b64(plain("red"))}]}
    assert api.http.post("/v1/collections/c/images", json=body).is_success
    store = open_store(api.settings.store)
    store.save("collection_0123/x.jpg", b"left behind")
    time.sleep(0.05)
    settings = WorkerSettings(redis_url=redis_server.url, store=api.settings.store)
    Janitor(settings, store, threading.Event()).sweep()
    assert [folder[:11] for folder, _ in store.folders()] == ["collection_"]
    assert api.http.get("/v1/collections/c/thumbnails/x").status_code == 200
    api.http.delete("/v1/collections/c")
    assert list(store.folders()) == []


def test_a_deleted_collection_s_memory_comes_back(redis_server: RedisServer) -> None:
    sets = VectorSets(redis_server.url)
    rows = np.random.default_rng(0).normal(size=(2000, 64)).astype(np.float32)

    def make() -> Collection:
        collection = sets.create(Collection("", "c", "one", 64))
        sets.add(collection, [Image(str(n), {"n": n}) for n in range(2000)], rows, 5000)
        return collection

    with redis.Redis.from_url(redis_server.url) as client:
        sets.delete(make())  # buffers and scripts stay
        time.sleep(0.5)
        before = client.info("memory")["used_memory"]
        collection = make()
        full = client.info("memory")["used_memory"]
        sets.delete(collection)
        LiveApi.wait_until(lambda: client.info("memory")["used_memory"] < before + (full - before) / 10)
        assert json.dumps([key.decode() for key in client.keys("clipcanvas:coll*")]) == "[]"


def fill(sets: VectorSets, name: str) -> Collection:
    collection = sets.create(Collection("", name, "one", 8))
    rows = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    sets.add(collection, [Image(str(n)) for n in range(50)], rows, 100)
    return collection


@pytest.mark.parametrize("databases", ["16", "1"])
def test_whatever_databases_there_are_a_deletion_takes_one_collection_and_nothing_else(
    tmp_path: Path, databases: str
) -> None:
    server = RedisServer(tmp_path, {"databases": databases, "unixsocket": f"{tmp_path}/r"})
    server.start()
    sets = VectorSets(server.url)
    doomed, other = fill(sets, "doomed"), fill(sets, "other")
    with redis.Redis.from_url(server.url) as client:
        sets.delete(doomed)
        assert not client.keys("*doomed*")
        assert len(sets.ids(other, 100)) == 50
        if databases == "16":
            last = redis.Redis(unix_socket_path=str(server.socket), db=15)
            assert last.dbsize() == 0
            last.set("of somebody else", "kept")
            sets.delete(other)
            assert last.keys() == [b"of somebody else"]
            last.close()
        server.stop()
        server.start()
        assert not client.keys("*doomed*")
    sets.close()
    server.stop()
