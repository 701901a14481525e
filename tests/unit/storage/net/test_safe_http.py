"""Requests to addresses that clients name reach public machines only, whatever the name or its form."""

from collections.abc import Iterable
from ipaddress import ip_address

import httpcore
import pytest

from storage.net.safe_http import (
    AddressRefused,
    CheckedNetwork,
    Rules,
    check_url,
    is_allowed,
    is_public,
    port_of,
)

PUBLIC = ["8.8.8.8", "1.1.1.1", "203.0.112.1", "2001:4860:4860::8888", "2606:4700::1111", "::ffff:8.8.8.8"]
PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "::1",
    "fd12::1",
    "::ffff:10.0.0.1",
]
NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "100.64.0.1",
    "100.100.100.200",  # Alibaba's metadata
    "168.63.129.16",  # Azure's wire server
    "169.254.169.254",  # metadata of most clouds
    "192.0.0.192",  # Oracle's
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::7f00:1",  # 127.0.0.1, IPv4-compatible
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",  # 169.254.169.254 by NAT64
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",  # Teredo
    "2001:db8::1",
    "2002:7f00:1::",  # 127.0.0.1 by 6to4
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "5f00::1",
    "fe80::1",
    "fe80::1%1",
    "fec0::1",
    "ff02::1",
    "fd00:ec2::254",  # AWS's metadata
]


def test_only_public_addresses_are_public() -> None:
    assert [text for text in PUBLIC if not is_public(ip_address(text))] == []
    assert [text for text in (*PRIVATE, *NEVER) if is_public(ip_address(text))] == []


def test_private_networks_are_called_if_the_settings_say_so_and_nothing_else_is() -> None:
    rules = Rules(allow_private=True)
    assert [text for text in (*PUBLIC, *PRIVATE) if not is_allowed(ip_address(text), rules)] == []
    assert [text for text in NEVER if is_allowed(ip_address(text), rules)] == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/x",
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://",
        "https:///x",
        "https://.",
        "https://user@example.com/",
        "https://user:word@example.com/",
        "https://example.com:8443/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://ex ample.com/",
        "https://exam\tple.com/",
        "https://%31%32%37.0.0.1/",
        "https://" + "a" * 300,
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost/",
        "https://127.0.0.1/",
        "https://127.0.0.1./",
        "https://127.1/",
        "https://0x7f.1/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://１２７.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:7f00:1]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://[fe80::1%25eth0]/",
        "https://169.254.169.254/latest/meta-data/",
    ],
)
def test_a_url_that_can_never_be_called_is_refused_without_looking_it_up(url: str) -> None:
    with pytest.raises(AddressRefused):
        check_url(url, Rules())


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("https://example.com/hooks?id=1", 443),
        ("https://EXAMPLE.com:80/", 80),
        ("https://münchen.example/", 443),
        ("https://8.8.8.8/", 443),
        ("https://[2606:4700::1111]/", 443),
        ("https://a_b.example.", 443),
    ],
)
def test_other_urls_may_be_called(url: str, port: int) -> None:
    assert port_of(check_url(url, Rules())) == port


def test_the_settings_may_allow_more() -> None:
    rules = Rules(ports=frozenset({8080}), allow_http=True, allow_private=True)
    assert check_url("http://localhost:8080/x", rules).path == "/x"
    with pytest.raises(AddressRefused, match="443"):
        check_url("https://localhost/", rules)
    with pytest.raises(AddressRefused, match="public"):
        check_url("http://169.254.169.254:8080/", rules)


class Dialer(httpcore.AsyncNetworkBackend):
    """Reaches nothing but remembers what it was to reach; the first of them may be dead."""

    def __init__(self, dead: int = 0) -> None:
        self.dialed: list[str] = []
        self._dead = dead

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.dialed.append(host)
        if len(self.dialed) <= self._dead:
            raise httpcore.ConnectError("dead")
        return httpcore.AsyncMockStream([])


class Names:
    """A name server with one answer after the other."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self._answers.pop(0)


async def test_the_address_that_was_checked_is_the_one_that_is_dialed() -> None:
    # a name server that changes its mind after the check
    names, dialer = Names(["8.8.8.8"], ["127.0.0.1"]), Dialer()
    await CheckedNetwork(Rules(), resolve=names, dial=dialer).connect_tcp("rebind.example", 443)
    assert (names.asked, dialer.dialed) == (1, ["8.8.8.8"])


@pytest.mark.parametrize("bad", NEVER)
async def test_one_bad_address_of_a_name_is_enough_to_dial_none(bad: str) -> None:
    dialer = Dialer()
    network = CheckedNetwork(Rules(), resolve=Names(["8.8.8.8", bad]), dial=dialer)
    with pytest.raises(AddressRefused):
        await network.connect_tcp("mixed.example", 443)
    assert dialer.dialed == []


async def test_the_next_address_is_dialed_if_one_is_dead() -> None:
    dialer = Dialer(dead=1)
    names = Names(["2606:4700::1111", "1.1.1.1"])
    await CheckedNetwork(Rules(), resolve=names, dial=dialer).connect_tcp("dual.example", 443)
    assert dialer.dialed == ["2606:4700::1111", "1.1.1.1"]
    network = CheckedNetwork(Rules(), resolve=Names(["1.1.1.1"], []), dial=Dialer(dead=9))
    for _ in range(2):  # dead, and then without any address
        with pytest.raises(httpcore.ConnectError):
            await network.connect_tcp("dead.example", 443)


async def test_other_ports_and_sockets_are_not_dialed() -> None:
    names = Names()
    network = CheckedNetwork(Rules(), resolve=names, dial=Dialer())
    with pytest.raises(AddressRefused):
        await network.connect_tcp("example.com", 6379)
    with pytest.raises(AddressRefused):
        await network.connect_unix_socket("/run/redis.sock")
    assert names.asked == 0
