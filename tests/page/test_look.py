"""Look: pictures and labels in, bars out, and the same as code that runs."""

import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.page.conftest import CAT, PHONE, Visit, ran

pytestmark = pytest.mark.timeout(180)


def classify(page: Page) -> None:
    page.set_input_files("#look-images", CAT)
    page.get_by_role("button", name="Classify").click()
    page.locator(".bars li").first.wait_for()


def test_a_picture_is_classified_the_likeliest_label_first(visit: Visit) -> None:
    page = visit.open("look")
    classify(page)
    bars = page.locator(".bars li").all_inner_texts()
    assert bars[0].split()[0] == "cat"
    assert len(bars) == 6
    visit.shoot("look")
    page.set_viewport_size(PHONE)
    visit.shoot("look-phone")


def test_several_pictures_are_told_apart_and_taken_away(visit: Visit) -> None:
    page = visit.open("look")
    page.set_input_files("#look-images", [CAT, CAT])
    assert page.locator(".picked li").count() == 2
    page.get_by_role("button", name="Remove cat.jpg").first.click()
    assert page.locator(".picked li").count() == 1
    page.set_input_files("#look-images", CAT)
    page.get_by_role("button", name="Classify").click()
    page.locator(".looked").nth(1).wait_for()


def test_a_picture_can_be_dropped_and_pasted(visit: Visit) -> None:
    page = visit.open("look")
    for event, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """async ([event, holder]) => {
                const bytes = await (await fetch("/page/icon.svg")).blob();
                const files = new DataTransfer();
                files.items.add(new File([bytes], `${event}.png`, { type: "image/png" }));
                const target = event === "drop" ? document.querySelector("#look .drop") : document;
                const said = new Event(event, { bubbles: true, cancelable: true });
                Object.defineProperty(said, holder, { value: files });
                target.dispatchEvent(said);
            }""",
            [event, holder],
        )
    names = page.locator(".picked img").evaluate_all("images => images.map(image => image.alt)")
    assert names == ["drop.png", "paste.png"]


def test_the_keyboard_is_enough(visit: Visit) -> None:
    page = visit.open("look")
    page.set_input_files("#look-images", CAT)
    page.locator("#labels").focus()
    page.keyboard.press("Tab")  # to the model
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator(".bars li").first.wait_for()


def test_what_is_no_picture_is_told_in_a_sentence(visit: Visit, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(CAT.read_bytes()[:3000])
    page = visit.open("look")
    page.set_input_files("#look-images", broken)
    page.get_by_role("button", name="Classify").click()
    said = page.locator("#look-answer .problem")
    said.wait_for()
    assert said.inner_text() == "Image 1: the image is truncated or damaged."
    # the browser writes refused requests into its console
    visit.errors.clear()


def test_without_a_picture_it_says_what_is_missing(visit: Visit) -> None:
    page = visit.open("look")
    page.get_by_role("button", name="Classify").click()
    assert "Choose an image first" in page.locator("#look-answer").inner_text()


def test_the_code_beside_the_answer_gives_the_same_answer(visit: Visit) -> None:
    page = visit.open("look")
    page.fill("#labels", "a cat's face\nrocket")
    classify(page)
    page.get_by_text("The same from a shell or a program").click()
    curl, program = page.locator("#look-code pre").all_inner_texts()
    assert '"label":"a cat\'s face"' in ran(["bash", "-c", curl])
    assert ran([sys.executable, "-c", program]) == "a cat's face\n"
