"""Requests to addresses that clients name: to public ones only, resolved once, checked, dialed as checked.

The transport is httpcore itself: it knows no proxies of the environment, no redirects, no cookies and no
compressed answers, so that there is nothing to turn off.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpcore
import httpx

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]

_HOST = re.compile(r"[a-z0-9._:-]{1,253}")

# what `is_global` of Python 3.11 takes for public, and is not, or only serves a cloud's own machines
_DENIED = [
    ip_network(text)
    for text in (
        "192.0.0.0/24",  # protocol assignments, Oracle's metadata among them
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # Azure's wire server
        "2001::/23",  # protocol assignments, Teredo among them
        "3fff::/20",  # documentation
    )
]
_GLOBAL_UNICAST = ip_network("2000::/3")  # all that IANA has given out so far
_SIX_TO_FOUR = ip_network("2002::/16")
_CARRIES_IPV4 = [ip_network(text) for text in ("::/96", "::ffff:0:0/96", "64:ff9b::/96")]
_PRIVATE = [ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")]
_METADATA = [ip_network("fd00:ec2::/32")]  # of clouds, among private addresses


class AddressRefused(ValueError):
    """This service does not call there; the message says why."""


@dataclass(frozen=True)
class Rules:
    """Where requests may go."""

    ports: frozenset[int] = frozenset({443, 80})
    allow_http: bool = False
    allow_private: bool = False  # loopback and private networks, too


def check_url(text: str, rules: Rules) -> httpx.URL:
    """A URL that may be allowed: its host is looked up only when it is called.

    Raises:
        AddressRefused: it can never be.
    """
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise AddressRefused("this is not a URL") from None
    if url.scheme != "https" and not (url.scheme == "http" and rules.allow_http):
        raise AddressRefused("only https:// addresses are called")
    if url.userinfo:
        raise AddressRefused("user and password have no place in it")
    host = url.raw_host.decode().rstrip(".").lower()
    if not _HOST.fullmatch(host):
        raise AddressRefused("it has no host that can be called")
    if port_of(url) not in rules.ports:
        raise AddressRefused(f"port {port_of(url)} is not called")
    if not rules.allow_private and (host == "localhost" or host.endswith(".localhost")):
        raise AddressRefused("it is not a public address")
    address = _literal(host)
    if address is not None and not is_allowed(address, rules):
        raise AddressRefused("it is not a public address")
    return url


def port_of(url: httpx.URL) -> int:
    """The port that a request to it goes to."""
    return {"https": 443, "http": 80}.get(url.scheme, 0) if url.port is None else url.port


def is_allowed(address: Address, rules: Rules) -> bool:
    """Whether a request may go to that address."""
    if is_public(address):
        return True
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    if not rules.allow_private or _in(address, _METADATA):
        return False
    return address.is_loopback or _in(address, _PRIVATE)


def is_public(address: Address) -> bool:
    """Whether it is one machine's on the internet; an IPv4 address within an IPv6 one is judged by itself."""
    if isinstance(address, IPv6Address):
        if _in(address, _CARRIES_IPV4):
            return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        if address in _SIX_TO_FOUR:
            return is_public(IPv4Address(int(address) >> 80 & 0xFFFF_FFFF))
        if address not in _GLOBAL_UNICAST:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or _in(address, _DENIED))


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Resolves a name once, checks every address it has, and dials one of them.

    TLS and the Host header keep the name: httpcore takes both from the URL.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        resolve: Resolve | None = None,
        dial: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._rules = rules
        self._resolve = resolve or _look_up
        self._dial = dial or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection.

        Raises:
            AddressRefused: the port or one of its addresses is not allowed; nothing was dialed.
            httpcore.ConnectError: it has no address, or none answers.
        """
        if port not in self._rules.ports:
            raise AddressRefused(f"port {port} is not called")
        addresses = await self._resolve(host, port)
        if not all(is_allowed(ip_address(address), self._rules) for address in addresses):
            raise AddressRefused("it is not a public address")
        failure = httpcore.ConnectError("the host has no address")
        for address in addresses:
            try:
                return await self._dial.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises AddressRefused, always."""
        raise AddressRefused("sockets of this machine are not called")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


def open_connections(network: CheckedNetwork, *, at_once: int) -> httpcore.AsyncConnectionPool:
    """Where requests are made. No connection is kept, so that each request's address is checked anew."""
    return httpcore.AsyncConnectionPool(
        ssl_context=httpx.create_ssl_context(),
        max_connections=at_once,
        max_keepalive_connections=0,
        network_backend=network,
    )


async def _look_up(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise httpcore.ConnectError("the host's name is not known") from None
    return [str(entry[4][0]) for entry in found]


def _literal(host: str) -> Address | None:
    """The address that a host is by itself, as resolvers read it: 127.1, 0x7f.1 and 2130706433 are one."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def _in(address: Address, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    return any(address in network for network in networks)
