"""Search: pictures get into a collection, and are found by text, by picture, and by a filter."""

import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from tests.page.conftest import CAT, PHONE, Visit, ran, wait_for_pixels

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three that can be read, and one that cannot."""
    files = [tmp_path / "cat.jpg"]
    files[0].write_bytes(CAT.read_bytes())
    for name in ("rocket", "coffee"):
        files.append(tmp_path / f"{name}.jpg")
        Image.fromarray(getattr(skimage.data, name)()).save(files[-1])
    files.append(tmp_path / "broken.jpg")
    files[-1].write_bytes(b"\xff\xd8\xff no picture")
    return files


def test_pictures_are_added_and_found(visit: Visit, pictures: list[Path], tmp_path: Path) -> None:
    page = visit.open("search")
    page.locator("#search-answer p").wait_for()  # there is no collection yet
    page.fill("#fill-name", "things")
    page.set_input_files("#fill-images", pictures)
    page.get_by_role("button", name="Add", exact=True).click()
    page.locator("#fill-answer span").wait_for()
    said = page.locator("#fill-answer").inner_text()
    assert "3 of 4 images were added to things." in said
    assert "broken.jpg: not an image of a known format" in said
    visit.errors.clear()  # the browser writes refused requests into its console

    page.locator("#fill-code summary").click()
    curl, program = page.locator("#fill-code pre").all_inner_texts()
    assert '"id":"coffee.jpg","created":false' in ran(["bash", "-c", curl], tmp_path)
    ran([sys.executable, "-c", program], tmp_path)
    page.locator("#fill-code summary").click()

    page.fill("#query", "a rocket")
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator("#search-answer img").nth(2).wait_for()
    assert page.locator("#search-answer .name").first.inner_text() == "rocket.jpg"
    wait_for_pixels(page.locator("#search-answer img"))
    visit.shoot("search")
    page.set_viewport_size(PHONE)
    visit.shoot("search-phone")
    page.locator("#search-code summary").click()
    curl, program = page.locator("#search-code pre").all_inner_texts()
    assert '"data":[{"id":"rocket.jpg"' in ran(["bash", "-c", curl])
    assert ran([sys.executable, "-c", program]).startswith("rocket.jpg ")

    page.fill("#query", "")
    page.set_input_files("#search-image", CAT)
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator("#search-answer li:first-child", has_text="cat.jpg").wait_for()

    page.fill("#filter", ".kind == ")
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator("#search-answer .problem").wait_for()
    visit.errors.clear()
