"""One HTTP server for all unit tests that need one; each test brings its own answers."""

from collections.abc import Callable, Iterator

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.contract_server import serving

Serve = Callable[[ASGIApp], str]


class Stage:
    """Answers with the app that the running test brought."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None, "no test is on"
        await self.app(scope, receive, send)


@pytest.fixture(scope="session")
def stage() -> Iterator[tuple[Stage, str]]:
    current = Stage()
    with serving(current) as url:
        yield current, url


@pytest.fixture
def serve(stage: tuple[Stage, str]) -> Iterator[Serve]:
    """Serve an app until the test ends; the URL."""
    current, url = stage

    def start(app: ASGIApp) -> str:
        current.app = app
        return url

    yield start
    current.app = None
