"""The page in the browser: a few files, under a policy that lets it load nothing from elsewhere."""

import re
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Response

from app.http.file_response import file_response

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent / "static"
_NAME = re.compile(r"[a-z]+\.(html|css|js|svg)")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


@router.get("/")
async def page(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Where a browser starts."""
    return _file("index.html", if_none_match)


@router.get("/page/{name}")
async def part(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """A file of the page."""
    return _file(name, if_none_match)


def _file(name: str, if_none_match: str | None) -> Response:
    path = _FOLDER / name
    if not _NAME.fullmatch(name) or not path.is_file():
        raise HTTPException(404)
    answer = file_response(
        path.read_bytes(),
        name=name,
        content_type=_TYPES[path.suffix],
        final=False,
        if_none_match=if_none_match,
        byte_range=None,
        if_range=None,
    )
    answer.headers.update(_HEADERS)
    return answer
