"""One file from the internet: it goes on where it broke off, has its name when it is whole, and is checked.

What has arrived lies beside the target as `<name>.part`, with `<name>.part.json`: where it comes from, and by
which mark (ETag or date) the server tells that version from another.
"""

import errno
import ipaddress
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import httpx

from models.weights_io import WeightsCorrupt, sha256_of

Progress = Callable[[str, int, int | None], None]
"""Called with what is done, how many bytes of it are, and of how many; none: nobody knows."""

ATTEMPTS = 5  # in a row of which all but the first bring nothing new
_CHANGED = "the file was another one when it was asked for again"
TIMEOUT_S = 30.0  # for an answer, and from one piece to the next
PAUSE_S = 0.5  # after the first that failed; then ever more


class TransferFailed(Exception):
    """A file could not be fetched; the message says why, and what to do."""


class Absent(TransferFailed):
    """The place has no such file, or cannot be reached; another may have it."""


class _Again(Exception):
    """This attempt came to nothing, for a reason that may pass."""


class _Changed(_Again):
    """The server has another version than what has arrived is of."""


@dataclass(frozen=True)
class _Part:
    """What is known of a file that has not arrived whole."""

    url: str
    mark: str | None  # ETag or date of the version; none: the server gives none
    total: int | None  # bytes


def fetch(
    url: str,
    target: Path,
    sha256: str | None,
    tell: Progress,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Fetch a file, from where an earlier attempt stopped if it is still the same; returns its SHA-256.

    Args:
        sha256: what it must have; none: it is not known.
        headers: of the request; where it is led to another server, that gets no `Authorization`.

    Raises:
        Absent: the server has it no more, or cannot be reached.
        TransferFailed: the server refuses, or breaks off again and again; or the disk is full. What has
            arrived stays.
        WeightsCorrupt: it has another SHA-256; it was thrown away.
    """
    part = target.with_name(f"{target.name}.part")
    known = _read_note(part)
    if not (target.is_file() and known is not None and known.url == url):  # it had arrived before
        hooks = {"request": [_check]}  # of each redirect, too
        with httpx.Client(
            timeout=TIMEOUT_S, follow_redirects=True, event_hooks=hooks, headers=headers
        ) as http:
            _arrive(http, url, part, sha256, tell)
        part.replace(target)
    tell("checking", 0, None)
    actual = sha256_of(target)
    if sha256 is not None and actual != sha256:
        target.unlink()
        forget(part)
        raise WeightsCorrupt(f"{url} has SHA-256 {actual}, expected {sha256}; it was thrown away")
    return actual


def forget(part: Path) -> None:
    """Throw away what has arrived of a file."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _check(request: httpx.Request) -> None:
    """Raises TransferFailed unless it is https, or goes no farther than this machine."""
    host = request.url.host
    try:
        near = ipaddress.ip_address(host).is_loopback
    except ValueError:
        near = host == "localhost"
    if request.url.scheme != "https" and not (request.url.scheme == "http" and near):
        raise TransferFailed(f"only https:// addresses are fetched from, not {request.url}")


def _arrive(http: httpx.Client, url: str, part: Path, sha256: str | None, tell: Progress) -> None:
    """All of the file is in `part` when this returns."""
    failures, most = 0, _size(part)  # failures since something new came
    while True:
        try:
            return _ask(http, url, part, sha256, tell)
        except (_Again, httpx.RequestError) as error:
            arrived = _size(part)
            if isinstance(error, _Changed):
                forget(part)
            failures = 1 if arrived > most > 0 else failures + 1
            most = max(most, arrived)
            reason = str(error) or type(error).__name__
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise TransferFailed(
                    f"no room for more than {_size(part):,} bytes of {url}: make room and run it again, "
                    "it goes on from there"
                ) from error
            raise
        if failures >= ATTEMPTS and not _size(part):
            raise Absent(f"{url} cannot be fetched: {reason}")
        if failures >= ATTEMPTS:
            raise TransferFailed(
                f"{url} broke off after {_size(part):,} bytes: {reason}; run it again, it goes on from there"
            )
        time.sleep(PAUSE_S * failures)


def _ask(http: httpx.Client, url: str, part: Path, sha256: str | None, tell: Progress) -> None:
    """Ask once for what is missing, and add it to `part`."""
    known, have = _read_note(part), _size(part)
    # without a mark, only the hash can tell whether the two ends are of one file
    resumes = have > 0 and known is not None and known.url == url and (known.mark or sha256) is not None
    headers = {"Accept-Encoding": "identity", "User-Agent": "Clipcanvas"}
    if resumes and known is not None:
        headers["Range"] = f"bytes={have}-"
        if known.mark:
            headers["If-Range"] = known.mark
    with http.stream("GET", url, headers=headers) as answer:
        if answer.status_code == 416:  # what is asked for lies beyond its end
            if answer.headers.get("content-range") == f"bytes */{have}":
                return
            raise _Changed(_CHANGED)
        if answer.status_code in (404, 410):
            raise Absent(f"{url} answers {answer.status_code}: it is not there any more")
        if answer.status_code == 429 or answer.status_code >= 500:
            raise _Again(f"the server answers {answer.status_code} {answer.reason_phrase}")
        if answer.status_code not in (200, 206):
            raise TransferFailed(f"{url} answers {answer.status_code} {answer.reason_phrase}")
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise TransferFailed(f"{url} is compressed on its way, though it was asked not to be")
        if answer.status_code == 206:
            start, total = _range_of(answer)
            if known is None or start != have or (known.mark or _mark(answer)) != _mark(answer):
                raise _Changed(_CHANGED)
        else:
            have, total = 0, _length(answer)
        new = _Part(url, _mark(answer), total)
        _note(part).write_text(json.dumps(asdict(new)), "utf-8")
        _write(answer, part, have, total, tell)
    if total is not None and _size(part) != total:
        raise _Again(f"{_size(part):,} bytes came of {total:,}")


def _write(answer: httpx.Response, part: Path, have: int, total: int | None, tell: Progress) -> None:
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
        file.truncate()
        for piece in answer.iter_raw():
            file.write(piece)
            have += len(piece)
            tell("fetching", have, total)


def _mark(answer: httpx.Response) -> str | None:
    """What `If-Range` may name: a strong ETag, or a date."""
    etag = answer.headers.get("etag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    modified = answer.headers.get("last-modified")
    return str(modified) if modified else None


def _length(answer: httpx.Response) -> int | None:
    length = answer.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def _range_of(answer: httpx.Response) -> tuple[int, int | None]:
    """Where the piece starts, and how long the whole is: of `Content-Range: bytes 5-9/10`."""
    unit, _, rest = answer.headers.get("content-range", "").partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdecimal():
        raise _Changed(_CHANGED)
    return int(start), int(total) if total.isdecimal() else None


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> _Part | None:
    try:
        return _Part(**json.loads(_note(part).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
