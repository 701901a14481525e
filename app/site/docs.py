"""The OpenAPI document as a page: Swagger UI, from files that are here, under a policy of its own."""

from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Response

from app.http.file_response import file_response

router = APIRouter(include_in_schema=False)

_PAGE = """<!doctype html>
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
_START = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
});
"""
_FILES = files("fastapi_offline") / "static"
_TYPES = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
}
_HEADERS = {
    # Swagger UI writes styles into its elements, and has its icons in its style sheet
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@router.get("/docs")
async def docs() -> Response:
    """The page."""
    return Response(_PAGE, headers=_HEADERS, media_type="text/html")


@router.get("/docs/start.js")
async def start() -> Response:
    """What starts Swagger UI: a script of its own, as the policy allows none in the page."""
    return Response(_START, headers=_HEADERS, media_type="text/javascript")


@router.get("/docs/{name}")
def part(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """A file of Swagger UI."""
    if name not in _TYPES:
        raise HTTPException(404)
    answer = file_response(
        (_FILES / name).read_bytes(),
        name=name,
        content_type=_TYPES[name],
        final=False,
        if_none_match=if_none_match,
        byte_range=None,
        if_range=None,
    )
    answer.headers.update(_HEADERS)
    return answer
