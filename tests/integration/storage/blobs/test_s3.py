"""The object store keeps the promises of the folder, against a real S3 server on loopback."""

from collections.abc import Iterator

import httpx
import pytest
from moto.server import ThreadedMotoServer

from storage.blobs import KeyMissing, Store, StoreUnavailable, UnknownStore, open_store


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    httpx.put(f"{url}/images").raise_for_status()
    yield url
    server.stop()


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    connect_to(endpoint, monkeypatch)
    opened = open_store("s3://images/some%20where")
    for folder, _ in list(opened.folders()):
        opened.delete(folder)
    return opened


def connect_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "ACCESS_KEY_ID": "x",
        "SECRET_ACCESS_KEY": "y",
        "REGION": "us-east-1",
        "ENDPOINT_URL": endpoint,
        "ALLOW_HTTP": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)


def test_what_was_kept_is_read_back_and_replaced(store: Store) -> None:
    store.save("job_a/t/image-0.png", b"one")
    store.save("job_a/t/image-0.png", b"two")
    assert store.read("job_a/t/image-0.png") == b"two"
    ((folder, changed_s),) = store.folders()
    assert folder == "job_a"
    assert changed_s > 1.7e9


def test_a_store_that_works_says_so(store: Store) -> None:
    store.check()


def test_delete_drops_a_key_or_a_folder_and_minds_nothing_that_is_gone(store: Store) -> None:
    for name in ("a", "b"):
        store.save(f"job_a/{name}/image-0.png", b"x")
    store.save("job_ab/t/image-0.png", b"another job")
    store.delete("job_a/a/image-0.png")
    with pytest.raises(KeyMissing):
        store.read("job_a/a/image-0.png")
    store.delete("job_a")
    store.delete("job_a")
    with pytest.raises(KeyMissing):
        store.read("job_a/b/image-0.png")
    assert store.read("job_ab/t/image-0.png") == b"another job"


@pytest.mark.parametrize("key", ["../x/y", "a/../../x", "/etc/passwd", "a//b", ""])
def test_a_key_names_nothing_outside_the_prefix(store: Store, key: str) -> None:
    for act in (lambda: store.read(key), lambda: store.save(key, b"x"), lambda: store.delete(key)):
        with pytest.raises(ValueError, match="not a key"):
            act()


def test_a_bucket_that_does_not_exist_is_said_to_be_unavailable(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect_to(endpoint, monkeypatch)
    with pytest.raises(StoreUnavailable):
        open_store("s3://nobodys").save("a/b", b"x")
    with pytest.raises(StoreUnavailable):
        open_store("s3://nobodys").check()


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "s3://bucket?x=1", "s3://key:secret@bucket"])
def test_a_url_that_names_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(UnknownStore):
        open_store(url)
