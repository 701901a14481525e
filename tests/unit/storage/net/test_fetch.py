"""Files come from public machines only, through redirects too, and never more than is allowed of them."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpcore
import pytest

from storage.net.fetch import Fetcher, FetchFailed
from storage.net.safe_http import CheckedNetwork, Rules

PUBLIC, PRIVATE = "93.184.216.34", "10.0.0.7"
OK = b"HTTP/1.1 200 OK\r\n"


class Dialer(httpcore.AsyncNetworkBackend):
    """Answers each connection with the next of some answers; nothing leaves this process."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.dialed: list[str] = []

    async def connect_tcp(
        self, host: str, port: int, *args: object, **kwargs: object
    ) -> httpcore.AsyncNetworkStream:
        self.dialed.append(host)
        return httpcore.AsyncMockStream([self.answers.pop(0)])


Open = Callable[..., tuple[Fetcher, Dialer]]


@pytest.fixture
def opened() -> Iterator[Open]:
    """A fetcher of files up to 1,000 bytes, and what it dials."""
    with ExitStack() as stack:

        def start(*answers: bytes, hosts: dict[str, str] | None = None) -> tuple[Fetcher, Dialer]:
            dialer, known = Dialer([*answers]), hosts or {}

            async def resolve(host: str, port: int) -> list[str]:
                return [known.get(host, PUBLIC)]

            network = CheckedNetwork(Rules(), resolve=resolve, dial=dialer)
            fetcher = Fetcher(Rules(), max_bytes=1000, timeout_s=5, network=network)
            stack.callback(fetcher.close)
            return fetcher, dialer

        yield start


@contextmanager
def failing(code: str) -> Iterator[None]:
    with pytest.raises(FetchFailed) as failed:
        yield
    assert failed.value.code == code


def redirect(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


def test_a_file_is_fetched_from_the_address_that_was_checked(opened: Open) -> None:
    fetcher, dialer = opened(OK + b"Content-Length: 5\r\n\r\nhello")
    assert fetcher.fetch("https://example.com/a.jpg") == b"hello"
    assert dialer.dialed == [PUBLIC]


def test_a_name_that_leads_into_a_private_network_is_not_dialed(opened: Open) -> None:
    fetcher, dialer = opened(hosts={"inside.example": PRIVATE})
    with failing("url_refused"):
        fetcher.fetch("https://inside.example/")
    assert dialer.dialed == []


@pytest.mark.parametrize(
    "to",
    ["https://inside.example/x", "https://127.0.0.1/", "http://example.com/", "file:///etc/passwd", "//[x"],
)
def test_a_redirect_is_checked_like_the_first_address(opened: Open, to: str) -> None:
    fetcher, dialer = opened(redirect(to), hosts={"inside.example": PRIVATE})
    with failing("url_refused"):
        fetcher.fetch("https://example.com/")
    assert dialer.dialed == [PUBLIC]


def test_a_few_redirects_are_followed_and_no_more(opened: Open) -> None:
    fetcher, dialer = opened(*[redirect("/next")] * 3, OK + b"Content-Length: 2\r\n\r\nhi")
    assert fetcher.fetch("https://example.com/") == b"hi"
    assert len(dialer.dialed) == 4
    fetcher, _ = opened(*[redirect("/next")] * 9)
    with failing("too_many_redirects"):
        fetcher.fetch("https://example.com/")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(OK + b"Content-Length: 2000\r\n\r\n", "file_too_large", id="says that it is long"),
        pytest.param(OK + b"\r\n" + b"x" * 2000, "file_too_large", id="is long"),
        pytest.param(OK + b"Content-Encoding: gzip\r\n\r\nx", "url_refused", id="compressed"),
        pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "http_status", id="404"),
        pytest.param(b"SSH-2.0-OpenSSH_9.9\r\n", "unreachable", id="no HTTP"),
        pytest.param(OK + b"Content-Length: 50\r\n\r\nshort", "unreachable", id="broken off"),
    ],
)
def test_what_is_no_file_or_too_long_is_refused(opened: Open, answer: bytes, code: str) -> None:
    fetcher, _ = opened(answer)
    with failing(code):
        fetcher.fetch("https://example.com/")


def test_closing_gives_up_what_is_being_fetched() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.sleep(3600)
        return []

    fetcher = Fetcher(Rules(), max_bytes=1000, timeout_s=3600, network=CheckedNetwork(Rules(), resolve=never))
    codes: list[str] = []

    def fetch() -> None:
        try:
            fetcher.fetch("https://example.com/")
        except FetchFailed as failed:
            codes.append(failed.code)

    thread = threading.Thread(target=fetch)
    thread.start()
    fetcher.close()
    thread.join(10)
    assert codes == ["canceled"]
