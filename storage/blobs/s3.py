"""`s3://bucket/prefix`: an object store that every API and worker reaches. Objects appear whole by nature.

Credentials, region and endpoint come from the usual `AWS_…` variables, which the library reads itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store as Bucket

from storage.blobs import KeyMissing, Store, StoreUnavailable, UnknownStore, check_key

if TYPE_CHECKING:
    from obstore.store import ClientConfig  # the library has it in its stubs only


class S3Store:
    """Keeps each key as one object below a prefix."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def save(self, key: str, data: bytes) -> None:
        with _reached():
            obstore.put(self._bucket, check_key(key), data)

    def read(self, key: str) -> bytes:
        with _reached():
            try:
                return bytes(obstore.get(self._bucket, check_key(key)).bytes())
            except FileNotFoundError as error:
                raise KeyMissing(key) from error

    def delete(self, prefix: str) -> None:
        with _reached():
            below = [item["path"] for page in obstore.list(self._bucket, check_key(prefix)) for item in page]
            obstore.delete(self._bucket, [prefix, *below])

    def check(self) -> None:
        with _reached():
            next(iter(obstore.list(self._bucket, chunk_size=1)), None)

    def folders(self) -> Iterator[tuple[str, float]]:
        changed_s: dict[str, float] = {}
        with _reached():
            for page in obstore.list(self._bucket):
                for item in page:
                    folder = item["path"].partition("/")[0]
                    changed_s[folder] = max(changed_s.get(folder, 0), item["last_modified"].timestamp())
        yield from changed_s.items()


def open_store(url: str) -> Store:
    """The bucket and prefix that an `s3://` URL names. Reaches for nothing yet."""
    parts = urlsplit(url)
    if not parts.netloc or parts.query or parts.username:
        raise UnknownStore(f"an S3 store is s3://bucket or s3://bucket/prefix, not {url!r}")
    # plain HTTP is for an endpoint that the operator names, such as one on this machine
    options: ClientConfig = {"connect_timeout": "2s", "timeout": "30s", "allow_http": True}
    prefix = unquote(parts.path).strip("/") or None
    return S3Store(Bucket(parts.netloc, prefix=prefix, client_options=options))


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:  # a bucket that is missing or closed to us is an OSError here
        raise StoreUnavailable("the object store does not answer as it should") from error
