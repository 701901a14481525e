"""The page in a real browser, against the service as real processes."""

import io
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, sync_playwright

from tests.support.redis_server import RedisServer, private_redis
from tests.support.service import LOADED, Service

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
PATIENCE_MS = 90_000


class Visit:
    """A page that somebody opened; what went wrong behind it is kept."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.errors: list[str] = []
        self.requests: list[Request] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: self.requests.append(request))

    def open(self, room: str) -> Page:
        self.page.goto(f"{self.url}/#{room}")
        self.page.locator(f"#{room}").wait_for()
        return self.page

    def shoot(self, name: str) -> None:
        """Keep a picture of the page, if `CLIPCANVAS_SCREENSHOTS` names a folder."""
        if folder := os.environ.get("CLIPCANVAS_SCREENSHOTS"):
            with Image.open(io.BytesIO(self.page.screenshot(full_page=True))) as image:
                image.convert("RGB").save(Path(folder) / f"page-{name}.webp", quality=80, method=6)


def wait_for_pixels(images: Locator) -> None:
    """Wait until there is such an image and the browser has the pixels of each.

    `Page.wait_for_function` evaluates strings from its second try on, which the page's policy forbids.
    """
    ends = time.monotonic() + PATIENCE_MS / 1000
    while not (widths := images.evaluate_all("all => all.map(image => image.naturalWidth)")) or 0 in widths:
        assert time.monotonic() < ends, f"pixels are missing: widths {widths}"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    assert found, "no browser found: install chromium, or say where one is in CHROMIUM"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport=DESKTOP, accept_downloads=True)
    yield context
    context.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, page_redis: RedisServer) -> Iterator[Service]:
    """The API with its CLIP, and a worker that draws."""
    service = Service(page_redis, tmp_path_factory.mktemp("service"), **LOADED)
    service.start("app")
    service.worker('["gradient", "vqgan_clip", "pixels"]')
    service.wait_until(lambda: httpx.get(f"{service.url}/readyz").status_code == 200, 120)
    yield service
    service.stop()


@pytest.fixture(scope="session")
def page_redis() -> Iterator[RedisServer]:
    """Of its own: the service lives for many tests."""
    with private_redis() as server:
        yield server


@pytest.fixture
def visit(shared: Service, context: BrowserContext) -> Iterator[Visit]:
    """A visit on which nothing may go wrong behind the page."""
    visit = Visit(context.new_page(), shared.url)
    yield visit
    assert visit.errors == []
    assert {request.url.split("/")[2] for request in visit.requests if request.url.startswith("http")} <= {
        shared.url.removeprefix("http://")
    }


def ran(command: list[str], folder: Path = CAT.parent) -> str:
    """What a program prints."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
