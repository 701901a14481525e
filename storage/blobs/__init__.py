"""Stores: where images and checkpoints are kept, by key. A URL's scheme is the name of a module here."""

import importlib
import re
from collections.abc import Iterator
from typing import Protocol, cast
from urllib.parse import urlsplit

_PART = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"  # no empty part, none that starts with a dot
_KEY = re.compile(rf"{_PART}(/{_PART})*")


class UnknownStore(ValueError):
    """No module of this package serves a URL's scheme."""


class KeyMissing(LookupError):
    """Nothing is kept under that key."""


class StorageFull(OSError):
    """There is no room left. What was kept before is unharmed."""


class StoreUnavailable(OSError):
    """The store cannot be reached. Trying again later may help."""


class Store(Protocol):
    """Keeps bytes by key, such as `job_…/3f2a/image-0.png`; the first part of a key is its folder.

    Every method may raise StoreUnavailable.
    """

    def save(self, key: str, data: bytes) -> None:
        """Keep `data`. A reader sees all of it or none; saving a key again replaces it.

        Raises:
            StorageFull: no room; nothing is visible under the key that was not before.
        """

    def read(self, key: str) -> bytes:
        """What was kept.

        Raises:
            KeyMissing: nothing was.
        """

    def delete(self, prefix: str) -> None:
        """Drop one key, or all keys below a folder. It is no error if there is nothing."""

    def check(self) -> None:
        """Whether images can be kept.

        Raises:
            StorageFull: there is little room left.
        """

    def folders(self) -> Iterator[tuple[str, float]]:
        """Every folder with the time of its last change, in seconds since the epoch."""


def check_key(key: str) -> str:
    """The key itself, if it can name nothing outside the store.

    Raises:
        ValueError: it cannot be a key.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a key: {key!r}")
    return key


def open_store(url: str) -> Store:
    """The store that a URL names: `file:///data/store` is served by the module `file`.

    Raises:
        UnknownStore: no module serves that scheme.
    """
    scheme = urlsplit(url).scheme
    if not re.fullmatch("[a-z0-9]+", scheme):
        raise UnknownStore(f"not a store URL, such as file:///data/store: {url!r}")
    try:
        module = importlib.import_module(f"{__name__}.{scheme}")
    except ModuleNotFoundError as error:
        raise UnknownStore(f"no store for {scheme}:// ({error})") from error
    return cast(Store, module.open_store(url))
