"""What holds for the whole page: keys, policy, weight, no other host, and access for all."""

import re
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext

from app.dependencies import new_key
from tests.page.conftest import CAT, DESKTOP, PHONE, Visit, wait_for_pixels
from tests.support.redis_server import RedisServer
from tests.support.service import LOADED, Service

pytestmark = pytest.mark.timeout(180)

ROOMS = ("look", "search", "draw")


def test_the_page_is_light_and_comes_from_one_host(visit: Visit) -> None:
    visit.open("draw")
    visit.page.locator("#generator option").first.wait_for(state="attached")
    parts = [request.url for request in visit.requests if "/page/" in request.url]
    assert len(parts) > 8
    assert sum(len(httpx.get(url).content) for url in (visit.url, *parts)) < 150_000


def test_nothing_but_its_own_files_may_run(shared: Service) -> None:
    answer = httpx.get(shared.url)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", answer.text), "inline code"
    part = httpx.get(f"{shared.url}/page/main.js")
    assert part.headers["content-type"] == "text/javascript; charset=utf-8"
    assert part.headers["content-security-policy"] == policy
    again = httpx.get(f"{shared.url}/page/main.js", headers={"If-None-Match": part.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fmain.py", "main.py", ".env", "%00.js"])
def test_only_the_page_s_files_are_served(shared: Service, name: str) -> None:
    answer = httpx.get(f"{shared.url}/page/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing(shared: Service, browser: Browser, scheme: str, size: dict[str, int]) -> None:
    context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    visit = Visit(context.new_page(), shared.url)
    for room in ROOMS:
        page = visit.open(room)
        if room == "look":
            page.set_input_files("#look-images", CAT)
            page.get_by_role("button", name="Classify").click()
            page.locator(".bars li").first.wait_for()
        if room == "draw":
            page.locator("#generator option[value=gradient]").wait_for(state="attached")
            page.select_option("#generator", "gradient")
            page.get_by_role("button", name="Draw", exact=True).click()
            page.locator("#drawing figcaption").first.wait_for()
            page.get_by_text("More options").click()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= size["width"], "nothing sticks out to the side"
    assert visit.errors == []
    context.close()


def test_a_service_with_keys_asks_for_one(
    redis_server: RedisServer, tmp_path: Path, context: BrowserContext
) -> None:
    key, entry = new_key("visitor")
    service = Service(redis_server, tmp_path, **LOADED, CLIPCANVAS_API_KEYS=f"[{entry}]")
    try:
        service.start("app")
        service.worker()
        service.wait_until(lambda: httpx.get(f"{service.url}/readyz").status_code == 200, 90)
        page = Visit(context.new_page(), service.url).open("draw")
        page.locator("#key").wait_for()
        assert "asks for an API key" in page.locator("#trouble").inner_text()
        page.fill("#key", "wrong")
        page.get_by_role("button", name="Use it").click()
        page.locator("#trouble", has_text="does not know this API key").wait_for()
        page.fill("#key", key)
        page.get_by_role("button", name="Use it").click()
        page.locator("#generator option[value=gradient]").wait_for(state="attached")
        page.select_option("#generator", "gradient")
        page.get_by_role("button", name="Draw", exact=True).click()
        page.locator("#drawing figure img").wait_for()
        wait_for_pixels(page.locator("#drawing figure img"))
        page.get_by_text("The same from a shell or a program").click()
        for code in page.locator("#draw-code pre").all_inner_texts():
            assert "CLIPCANVAS_API_KEY" in code
            assert key not in code
    finally:
        service.stop()


def test_a_service_that_is_away_is_told_in_a_sentence(shared: Service, context: BrowserContext) -> None:
    page = Visit(context.new_page(), shared.url).open("look")
    context.set_offline(True)
    page.set_input_files("#look-images", CAT)
    page.get_by_role("button", name="Classify").click()
    page.locator("#look-answer .problem").wait_for()
    assert page.locator("#look-answer").inner_text() == "The service cannot be reached. Is it running?"


def test_the_api_s_own_page_needs_no_other_host(visit: Visit) -> None:
    page = visit.page
    page.goto(f"{visit.url}/docs")
    page.locator("#operations-jobs-create_job").wait_for()
    assert len(visit.requests) >= 5
    assert all(request.url.startswith((visit.url, "data:")) for request in visit.requests)
    policy = httpx.get(f"{visit.url}/docs").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert httpx.get(f"{visit.url}/docs/favicon.png").status_code == 404
    page.locator("#operations-jobs-create_job button").first.click()
    page.get_by_role("button", name="Try it out").wait_for()
    assert visit.errors == []
