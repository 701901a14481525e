"""Files over HTTP: ETags from content hashes, 304, and ranges, after RFC 9110."""

import hashlib
import re

from fastapi import Response

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def is_known(etag: str, if_none_match: str | None) -> bool:
    """Whether the header `If-None-Match` of a client lists this version."""
    known = (tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(","))
    return any(tag in (etag, "*") for tag in known)


def file_response(
    data: bytes,
    *,
    name: str,
    content_type: str,
    final: bool = False,
    if_none_match: str | None = None,
    byte_range: str | None = None,
    if_range: str | None = None,
) -> Response:
    """A file, the range of it that was requested, or 304 if the client has it.

    Args:
        final: the file never changes under this name.
    """
    etag = f'"sha256-{hashlib.sha256(data).hexdigest()}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=86400, immutable" if final else "private, no-cache",
    }
    if is_known(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = f'inline; filename="{name}"'
    # several ranges, or an invalid one, are answered with the whole file, as the RFC allows
    match = _RANGE.fullmatch((byte_range or "").replace(" ", ""))
    if match is None or match[0] == "bytes=-" or if_range not in (None, etag):
        return Response(data, 200, headers, content_type)
    first, last = match.groups()
    if first:
        start, end = int(first), min(int(last or len(data)), len(data) - 1)
    else:
        start, end = max(len(data) - int(last), 0), len(data) - 1
    if first and last and int(last) < int(first):
        return Response(data, 200, headers, content_type)
    if start > end:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
    return Response(data[start : end + 1], 206, headers, content_type)
