"""Files fetched from addresses that clients name: bounded in bytes and time; redirects are checked, too."""

import asyncio
import threading
from concurrent.futures import CancelledError
from contextlib import suppress

import httpcore
import httpx

from storage.net.safe_http import AddressRefused, CheckedNetwork, Rules, check_url, open_connections

MAX_REDIRECTS = 3
AT_ONCE = 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class FetchFailed(Exception):
    """An address that gave no file; the message is fit for the client.

    Attributes:
        code: a stable word for programs.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Fetcher:
    """Fetches files; thread-safe. Close it: it has a thread of its own.

    Args:
        max_bytes: of one file.
        timeout_s: for one file, all redirects together.
        network: else one that resolves and dials.
    """

    def __init__(
        self, rules: Rules, *, max_bytes: int, timeout_s: float, network: CheckedNetwork | None = None
    ) -> None:
        self._rules, self._max_bytes, self._timeout_s = rules, max_bytes, timeout_s
        self._http = open_connections(network or CheckedNetwork(rules), at_once=AT_ONCE)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetching", daemon=True)
        self._thread.start()

    def fetch(self, url: str) -> bytes:
        """The file at an address.

        Raises:
            FetchFailed
        """
        try:
            return asyncio.run_coroutine_threadsafe(self._fetch(url), self._loop).result()
        except CancelledError:
            raise FetchFailed("canceled", "it was not fetched to the end") from None
        except AddressRefused as refused:
            raise FetchFailed("url_refused", str(refused)) from refused
        except TimeoutError:
            raise FetchFailed("timeout", f"it took longer than {self._timeout_s:g} s") from None
        except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
            raise FetchFailed("unreachable", "the host cannot be reached") from error
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            raise FetchFailed("unreachable", "the answer was not HTTP") from error

    def close(self) -> None:
        """Give up what is being fetched."""
        if self._loop.is_closed():
            return
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._give_up(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _give_up(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()

    async def _fetch(self, address: str) -> bytes:
        async with asyncio.timeout(self._timeout_s):
            url = check_url(address, self._rules)
            for _ in range(MAX_REDIRECTS + 1):
                found = await self._ask(url)
                if isinstance(found, bytes):
                    return found
                url = check_url(str(url.join(found)), self._rules)
        raise FetchFailed("too_many_redirects", f"more than {MAX_REDIRECTS} redirects")

    async def _ask(self, url: httpx.URL) -> bytes | httpx.URL:
        """The file, or where it is to be looked for instead."""
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers = {
            "Host": url.netloc.decode(),
            "User-Agent": "Clipcanvas",
            "Accept": "image/*",
            "Accept-Encoding": "identity",
        }
        async with self._http.stream("GET", target, headers=[*headers.items()]) as response:
            told = {name.lower(): value.decode("ascii", "replace") for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in told:
                try:
                    return httpx.URL(told[b"location"])
                except (httpx.InvalidURL, ValueError):
                    raise AddressRefused("it redirects to what is not a URL") from None
            if response.status != 200:
                raise FetchFailed("http_status", f"the host answers with {response.status}")
            if told.get(b"content-encoding", "identity").lower() != "identity":
                raise FetchFailed("url_refused", "the host compresses what it was asked not to")
            length = told.get(b"content-length", "0")
            if length.isdecimal() and int(length) > self._max_bytes:
                raise self._too_large()
            data = bytearray()
            async for chunk in response.aiter_stream():
                data += chunk
                if len(data) > self._max_bytes:
                    raise self._too_large()
            return bytes(data)

    def _too_large(self) -> FetchFailed:
        return FetchFailed("file_too_large", f"more than {self._max_bytes} bytes")
