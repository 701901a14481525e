"""Draw: a picture forms before one's eyes, whatever happens to the page or the service meanwhile."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page

from tests.page.conftest import PHONE, Visit, ran, wait_for_pixels
from tests.support.redis_server import RedisServer
from tests.support.service import LOADED, Service

pytestmark = pytest.mark.timeout(240)


def choose_slow(page: Page, steps: int = 200, delay_s: str = "0.05") -> None:
    """A drawing that takes steps times delay_s."""
    page.locator("#generator option").nth(1).wait_for(state="attached")
    page.select_option("#generator", "gradient")
    page.fill("#steps", str(steps))
    page.get_by_text("More options").click()
    page.fill("#option-delay_s", delay_s)


def begin(page: Page) -> str:
    """Press Draw; the job's id."""
    before = page.url
    page.get_by_role("button", name="Draw", exact=True).click()
    page.wait_for_url(lambda url: "#draw/job_" in url and url != before)
    return page.url.rpartition("/")[2]


def ended(page: Page, text: str = "Done in") -> None:
    page.locator("#drawing p", has_text=text).wait_for()


def test_a_picture_forms_live_and_is_drawn_again_from_its_seed(visit: Visit, shared: Service) -> None:
    page = visit.open("draw")
    page.locator("#quality option[value=draft]").wait_for(state="attached")
    page.select_option("#quality", "draft")
    assert page.locator("#steps").get_attribute("placeholder") == str(draft_steps(shared)), (
        "the fields show what the preset draws"
    )
    job = begin(page)
    page.locator("#drawing img[alt^='The drawing so far']").wait_for()
    page.locator(".curve").wait_for()
    page.locator("#queue", has_text="1 running, 0 waiting, 1 worker").wait_for()
    visit.shoot("draw-live")
    ended(page)
    page.locator("#queue", has_text="0 running, 0 waiting, 1 worker").wait_for()
    wait_for_pixels(page.locator("#history img").first)
    visit.shoot("draw")
    page.set_viewport_size(PHONE)
    visit.shoot("draw-phone")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    first = Path(download.value.path()).read_bytes()
    with shared.client() as client:
        assert first == client.output(job, "image-0.png")

    page.get_by_role("button", name="Draw again with this seed").click()
    again = begin(page)
    assert again != job
    with shared.client() as client:
        client.wait(again, timeout_s=90)
        assert sha(client.output(again, "image-0.png")) == sha(first)


def test_the_code_beside_the_picture_runs(visit: Visit, tmp_path: Path) -> None:
    page = visit.open("draw")
    choose_slow(page, steps=3, delay_s="0")
    begin(page)
    ended(page)
    page.get_by_text("The same from a shell or a program").click()
    curl, program = page.locator("#draw-code pre").all_inner_texts()
    assert '"status":"queued"' in ran(["bash", "-c", curl.split("\ncurl")[0]])
    ran([sys.executable, "-c", program.replace("image.png", str(tmp_path / "image.png"))])
    assert (tmp_path / "image.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_that_is_opened_again_goes_on_with_its_job(visit: Visit) -> None:
    page = visit.open("draw")
    choose_slow(page)
    begin(page)
    page.locator("#drawing p", has_text="Step").wait_for()
    page.reload()
    page.locator("#drawing p", has_text="Step").wait_for()
    ended(page)


def test_a_drawing_is_canceled(visit: Visit) -> None:
    page = visit.open("draw")
    choose_slow(page, steps=2000)
    begin(page)
    page.locator("#drawing p", has_text="Step").wait_for()
    page.get_by_role("button", name="Cancel").click()
    ended(page, "It was canceled.")
    page.locator("#history li", has_text="canceled").first.wait_for()
    page.get_by_role("button", name="Forget it").click()
    page.wait_for_url("**/#draw")


def test_every_option_of_every_generator_has_its_field(visit: Visit, shared: Service) -> None:
    page = visit.open("draw")
    page.get_by_text("More options").click()
    for generator in httpx.get(f"{shared.url}/v1/generators").json()["data"]:
        page.locator(f"#generator option[value={generator['name']}]").wait_for(state="attached")
        page.select_option("#generator", generator["name"])
        for name in generator["options"]["properties"]:
            field = page.locator(f"#option-{name}")
            assert field.is_visible(), name
            described = page.locator(f"#{field.get_attribute('aria-describedby')}").inner_text()
            assert len(described) > 5, name


def test_what_the_fields_say_is_what_is_asked_for(visit: Visit, shared: Service, tmp_path: Path) -> None:
    page = visit.open("draw")
    page.locator("#generator option[value=pixels]").wait_for(state="attached")
    page.select_option("#generator", "pixels")
    page.fill("#prompt", "a red heart:2 | blurry:-0.5 ^ a house")
    for field, value in {"width": "64", "height": "64", "steps": "2", "seed": "5", "count": "2"}.items():
        page.fill(f"#{field}", value)
    page.select_option("#film", "webp")
    page.get_by_text("More options").click()
    page.fill("#option-cutouts", "4")
    page.fill("#option-palette", "#ff0000\n#ffffff")
    page.select_option("#option-palette_only", "true")
    page.fill("#option-guide_weights", '{"demo-icons": 0.5}')
    page.fill("#option-learning_rate_drops", "0.5\n0.75")
    page.set_input_files("#option-init_image", Path(__file__).parents[2] / "examples" / "cat.jpg")
    job = begin(page)
    ended(page)
    asked: dict[str, Any] = httpx.get(f"{shared.url}/v1/jobs/{job}").json()["request"]
    assert [asked[name] for name in ("width", "height", "steps", "seed", "num_images")] == [64, 64, 2, 5, 2]
    assert [prompt["text"] for prompt in asked["prompts"]] == ["a red heart", "blurry", "a house"]
    options = asked["options"]
    assert options["palette"] == ["#ff0000", "#ffffff"]
    assert options["palette_only"] is True
    assert (options["cutouts"], options["guide_weights"]) == (4, {"demo-icons": 0.5})
    assert options["learning_rate_drops"] == [0.5, 0.75]
    assert options["init_image"]
    assert asked["save"]["video"] == "webp"
    assert page.locator("#drawing figure img").count() == 4  # two pictures, two films

    page.get_by_role("button", name="Draw again with this seed").first.click()
    assert page.input_value("#prompt") == "a red heart:2 | blurry:-0.5 ^ a house"
    assert page.input_value("#option-cutouts") == "4"
    assert page.input_value("#option-palette") == "#ff0000\n#ffffff"
    assert json.loads(page.input_value("#option-guide_weights")) == {"demo-icons": 0.5}


def test_a_refusal_is_a_sentence_that_names_the_field(visit: Visit) -> None:
    page = visit.open("draw")
    page.locator("#generator option[value=vqgan_clip]").wait_for(state="attached")
    page.get_by_text("More options").click()
    page.locator("#option-learning_rate").evaluate("field => field.removeAttribute('max')")
    page.fill("#option-learning_rate", "1000")
    page.get_by_role("button", name="Draw", exact=True).click()
    said = page.locator("#drawing .problem")
    said.wait_for()
    assert "learning rate" in said.inner_text().lower()
    assert "100" in said.inner_text()
    visit.errors.clear()  # the browser writes refused requests into its console


def test_a_job_that_is_not_there_is_told(visit: Visit) -> None:
    page = visit.page
    page.goto(f"{visit.url}/#draw/job_00000000000000000000000000")
    page.locator("#drawing .problem").wait_for()
    assert "There is no job of that id." in page.locator("#drawing .problem").inner_text()
    visit.errors.clear()


def test_a_drawing_goes_on_over_a_restart_of_the_service(
    redis_server: RedisServer, tmp_path: Path, context: BrowserContext
) -> None:
    service = Service(redis_server, tmp_path, **LOADED)
    try:
        api = service.start("app")
        service.worker()
        service.wait_until(service.alive)
        visit = Visit(context.new_page(), service.url)
        page = visit.open("draw")
        choose_slow(page, steps=400)
        begin(page)
        page.locator("#drawing p", has_text="Step").wait_for()
        api.kill()
        api.wait()
        page.locator("#drawing p", has_text="The connection was lost").wait_for()
        service.start("app")
        page.locator("#drawing p", has_text="Step").wait_for()
        ended(page)
    finally:
        service.stop()


def draft_steps(service: Service) -> int:
    generators = httpx.get(f"{service.url}/v1/generators").json()["data"]
    [vqgan_clip] = [generator for generator in generators if generator["name"] == "vqgan_clip"]
    return int(vqgan_clip["presets"]["quality"]["draft"]["steps"])


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
