"""A file of weights arrives whole and checked, or not at all; what broke off goes on where it stopped."""

import errno
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.catalog import download
from models.catalog.download import Absent, TransferFailed, fetch
from models.weights_io import WeightsCorrupt
from tests.support.weights.server import WeightsServer, weights_server

CONTENT = bytes(range(256)) * 4000
OTHER = CONTENT[::-1]
HALF = len(CONTENT) // 2
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with weights_server() as running:
        yield running


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE_S", 0.0)


def silent(what: str, done: int, total: int | None) -> None:
    pass


def get(server: WeightsServer, folder: Path, sha256: str | None = SHA256, tell: Any = silent) -> str:
    return fetch(f"{server.url}/w", folder / "weights", sha256, tell)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_arrives_with_its_hash_and_tells_how_far_it_is(server: WeightsServer, tmp_path: Path) -> None:
    server.put("/w", CONTENT)
    told: list[tuple[str, int, int | None]] = []
    assert get(server, tmp_path, None, lambda *line: told.append(line)) == SHA256
    assert (tmp_path / "weights").read_bytes() == CONTENT
    assert names(tmp_path) == ["weights", "weights.part.json"]
    done = [line for line in told if line[0] == "fetching"]
    assert done[-1] == ("fetching", len(CONTENT), len(CONTENT))
    assert [line[1] for line in done] == sorted(line[1] for line in done)


@pytest.mark.parametrize("etag", [True, False], ids=["ETag", "date"])
def test_a_connection_that_is_cut_goes_on_within_one_call(
    server: WeightsServer, tmp_path: Path, etag: bool
) -> None:
    server.put("/w", CONTENT, breaks_after=[1000, HALF], etag=etag)
    get(server, tmp_path)
    assert (tmp_path / "weights").read_bytes() == CONTENT
    assert server.bytes_sent_for("/w") == [None, "bytes=1000-", f"bytes={1000 + HALF}-"]


def test_what_an_earlier_call_left_is_gone_on_with(server: WeightsServer, tmp_path: Path) -> None:
    server.put("/w", CONTENT, breaks_after=[HALF, *[0] * (download.ATTEMPTS - 1)])
    with pytest.raises(TransferFailed, match="run it again"):
        get(server, tmp_path)
    assert names(tmp_path) == ["weights.part", "weights.part.json"]
    assert (tmp_path / "weights.part").read_bytes() == CONTENT[:HALF]
    server.asked.clear()
    assert get(server, tmp_path, None) == SHA256
    assert server.bytes_sent_for("/w") == [f"bytes={HALF}-"]
    assert not (tmp_path / "weights.part").exists()


def test_what_is_here_whole_is_not_fetched_again_but_from_another_place(
    server: WeightsServer, tmp_path: Path
) -> None:
    server.put("/w", CONTENT)
    get(server, tmp_path)
    server.asked.clear()
    assert get(server, tmp_path) == SHA256
    assert server.asked == []
    server.put("/elsewhere", OTHER)
    fetch(f"{server.url}/elsewhere", tmp_path / "weights", None, silent)
    assert (tmp_path / "weights").read_bytes() == OTHER


def test_all_that_arrived_before_a_crash_is_not_asked_for_again(
    server: WeightsServer, tmp_path: Path
) -> None:
    server.put("/w", CONTENT, breaks_after=[HALF, *[0] * (download.ATTEMPTS - 1)])
    with pytest.raises(TransferFailed):
        get(server, tmp_path)
    (tmp_path / "weights.part").write_bytes(CONTENT)  # the rest came, and the process was killed
    assert get(server, tmp_path) == SHA256


def test_a_file_that_changed_in_between_is_fetched_anew(server: WeightsServer, tmp_path: Path) -> None:
    server.put("/w", OTHER, breaks_after=[HALF], changes_to=CONTENT)
    assert get(server, tmp_path, None) == SHA256
    assert (tmp_path / "weights").read_bytes() == CONTENT


def test_a_file_that_never_stays_the_same_is_given_up(server: WeightsServer, tmp_path: Path) -> None:
    served = server.put("/w", CONTENT, breaks_after=[HALF] * 100)

    def change(what: str, done: int, total: int | None) -> None:
        served.content = served.content[1:] + served.content[:1]

    with pytest.raises(TransferFailed):
        get(server, tmp_path, None, change)


def test_a_server_that_takes_no_ranges_sends_it_all_again(server: WeightsServer, tmp_path: Path) -> None:
    server.put("/w", CONTENT, breaks_after=[HALF], ranges=False)
    get(server, tmp_path)
    assert (tmp_path / "weights").read_bytes() == CONTENT


def test_a_length_that_is_a_lie_is_no_whole_file(server: WeightsServer, tmp_path: Path) -> None:
    server.put("/w", CONTENT, length_too_long=10, ranges=False)
    with pytest.raises(TransferFailed, match="broke off"):
        get(server, tmp_path, None)
    # asked for what is missing, it says itself that nothing is
    server.put("/w", CONTENT, length_too_long=10)
    assert get(server, tmp_path, None) == SHA256
    server.put("/w", CONTENT, length_too_long=-10)
    (tmp_path / "weights").unlink()
    with pytest.raises(WeightsCorrupt):
        get(server, tmp_path)


def test_another_file_than_the_card_means_is_thrown_away(server: WeightsServer, tmp_path: Path) -> None:
    server.put("/w", OTHER)
    with pytest.raises(WeightsCorrupt, match=SHA256) as refused:
        get(server, tmp_path)
    assert hashlib.sha256(OTHER).hexdigest() in str(refused.value)
    assert names(tmp_path) == []


def test_a_busy_server_is_asked_again(server: WeightsServer, tmp_path: Path) -> None:
    server.put("/w", CONTENT, statuses=[503, 429])
    get(server, tmp_path)
    assert (tmp_path / "weights").read_bytes() == CONTENT


def test_a_file_that_is_gone_is_absent(server: WeightsServer, tmp_path: Path) -> None:
    with pytest.raises(Absent, match="404"):
        get(server, tmp_path)


def test_a_server_that_is_not_there_is_absent(tmp_path: Path) -> None:
    with weights_server() as gone:
        url = gone.url
    with pytest.raises(Absent, match="cannot be fetched"):
        fetch(f"{url}/w", tmp_path / "weights", None, silent)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_told(server: WeightsServer, tmp_path: Path, status: int) -> None:
    server.put("/w", CONTENT, statuses=[status])
    with pytest.raises(TransferFailed, match=str(status)):
        get(server, tmp_path)


@pytest.mark.parametrize("url", ["http://weights.example/w", "ftp://127.0.0.1/w", "file:///etc/passwd"])
def test_only_https_is_fetched_from(tmp_path: Path, url: str) -> None:
    with pytest.raises(TransferFailed, match="https"):
        fetch(url, tmp_path / "weights", None, silent)


def test_a_redirect_leads_to_https_only(server: WeightsServer, tmp_path: Path) -> None:
    server.put("/w", CONTENT, redirects_to="http://weights.example/w")
    with pytest.raises(TransferFailed, match=r"https.*weights\.example"):
        get(server, tmp_path)
    server.put("/w", CONTENT, redirects_to="/elsewhere")
    server.put("/elsewhere", CONTENT)
    assert get(server, tmp_path) == SHA256


def test_a_full_disk_leaves_what_can_be_gone_on_with(
    server: WeightsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("/w", CONTENT)
    room = HALF

    class Full(io.FileIO):
        """A file on a disk with so much room."""

        def write(self, data: Any) -> int:
            left = room - self.tell()
            super().write(data[:left])
            if left < len(data):
                raise OSError(errno.ENOSPC, "No space left on device")
            return len(data)

    opened = Path.open

    def open_(path: Path, mode: str = "r", **options: Any) -> Any:
        return (
            Full(path, mode)
            if path.name == "weights.part" and mode in ("wb", "r+b")
            else opened(path, mode, **options)
        )

    with monkeypatch.context() as disk:
        disk.setattr(Path, "open", open_)
        with pytest.raises(TransferFailed, match="make room"):
            get(server, tmp_path)
    assert not (tmp_path / "weights").exists()
    server.asked.clear()
    assert get(server, tmp_path) == SHA256
    assert server.bytes_sent_for("/w") == [f"bytes={HALF}-"]


def test_a_token_is_shown_to_the_server_that_was_asked_alone(server: WeightsServer, tmp_path: Path) -> None:
    with weights_server() as other:
        other.put("/w", CONTENT)
        server.put("/w", b"", redirects_to=f"{other.url}/w")
        token = {"Authorization": "Bearer secret"}
        assert fetch(f"{server.url}/w", tmp_path / "weights", SHA256, silent, token) == SHA256
        assert (server.tokens, other.tokens) == (["Bearer secret"], [None])
