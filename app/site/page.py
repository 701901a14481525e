"""The page in the browser, and Swagger UI: files under policies that let them load nothing from elsewhere."""

import re
from importlib.resources import files
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

_SWAGGER = files("fastapi_offline") / "static"
_SWAGGER_FILES = ("swagger-ui.css", "swagger-ui-bundle.js")
_SWAGGER_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Clipcanvas: the API</title>
<link rel="icon" href="page/icon.svg">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_SWAGGER_START = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
});
"""
_SWAGGER_HEADERS = {
    # Swagger UI writes styles into its elements, and has its icons in its style sheet
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
}

IfNoneMatch = Annotated[str | None, Header()]


@router.get("/")
async def page(if_none_match: IfNoneMatch = None) -> Response:
    """The page."""
    return await part("index.html", if_none_match)


@router.get("/page/{name}")
async def part(name: str, if_none_match: IfNoneMatch = None) -> Response:
    """A file of the page."""
    path = _FOLDER / name
    if not _NAME.fullmatch(name) or not path.is_file():
        raise HTTPException(404)
    return _file(path.read_bytes(), name, if_none_match, _HEADERS)


@router.get("/docs")
async def docs() -> Response:
    """The OpenAPI document as a page."""
    return Response(_SWAGGER_PAGE, headers=_SWAGGER_HEADERS, media_type="text/html")


@router.get("/docs/start.js")
async def docs_start() -> Response:
    """The script that starts Swagger UI: a file, because the policy allows no script in the page."""
    return Response(_SWAGGER_START, headers=_SWAGGER_HEADERS, media_type="text/javascript")


@router.get("/docs/{name}")
def docs_part(name: str, if_none_match: IfNoneMatch = None) -> Response:
    """A file of Swagger UI."""
    if name not in _SWAGGER_FILES:
        raise HTTPException(404)
    return _file((_SWAGGER / name).read_bytes(), name, if_none_match, _SWAGGER_HEADERS)


def _file(data: bytes, name: str, if_none_match: str | None, headers: dict[str, str]) -> Response:
    content_type = _TYPES[Path(name).suffix]
    response = file_response(data, name=name, content_type=content_type, if_none_match=if_none_match)
    response.headers.update(headers)
    return response
