"""`docs/recipes.md`: each program is started by its command, and does what the page says."""

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook

from tests.recipes.conftest import SECRET, Shell, blocks

pytestmark = pytest.mark.timeout(900)

COMMANDS = blocks("recipes.md", "bash")


@pytest.fixture
def recipes(shell: Shell) -> Shell:
    shell.keep("recipes.md")
    return shell


def command(words: str) -> str:
    """The command of the page that has these words."""
    [found] = [text for text in COMMANDS if words in text]
    return found


def test_no_command_of_the_page_is_left_out() -> None:
    source = Path(__file__).read_text()
    tried = set(re.findall(r'command\("(.+?)"\)', source))
    assert sorted(command(words) for words in tried) == sorted(COMMANDS)


@pytest.fixture(params=["fastapi", "django"])
def uploads(request: pytest.FixtureRequest, recipes: Shell) -> Iterator[tuple[Shell, str, str]]:
    """The site, the command that sends it a picture, and where it is."""
    started = {"fastapi": (command("uvicorn uploads_fastapi"), command("8001/uploads"), 8001)}
    started["django"] = (command("uploads_django.py runserver"), command("8002/uploads"), 8002)
    start, send, port = started[request.param]
    process, _ = recipes.start(start, port)
    yield recipes, send, f"{recipes.url(port)}/uploads"
    process.terminate()
    process.wait(10)


def test_uploads_are_classified_and_what_is_no_picture_is_told(uploads: tuple[Shell, str, str]) -> None:
    shell, send, url = uploads
    answer = json.loads(shell.run(send))
    assert answer["label"] == "cat"
    assert 0.5 < answer["probability"] <= 1
    refused = httpx.post(url, files={"image": b"no picture"})
    assert (refused.status_code, "not an image" in refused.text) == (422, True)


def test_pictures_are_moderated(recipes: Shell) -> None:
    lines = recipes.run(command("python moderate.py")).splitlines()
    assert lines == ["examples/cat.jpg publish", "docs/images/page-look.webp refuse"]


def test_a_folder_is_searched_from_the_shell_and_from_a_program(recipes: Shell) -> None:
    told = recipes.run(command("clipcanvas index docs/gallery"))
    pictures = len(list((recipes.folder / "docs" / "gallery").glob("*.webp")))
    assert f"{pictures} added, 0 known already, 0 failed" in told
    assert '"similarity"' in told
    found = recipes.run(command("python find.py")).splitlines()
    assert len(found) == 6
    assert all(re.match(r"-?0\.\d{3}  \S+\.webp$", line) for line in found)


@pytest.mark.parametrize(
    ("start", "create", "port"),
    [("uvicorn receiver:app", "9000/clipcanvas", 9000), ("node receiver.mjs", "9001/clipcanvas", 9001)],
    ids=["python", "node"],
)
def test_webhooks_are_received_and_forged_ones_refused(
    recipes: Shell, start: str, create: str, port: int
) -> None:
    starts = {9000: command("uvicorn receiver:app"), 9001: command("node receiver.mjs")}
    creates = {9000: command("9000/clipcanvas"), 9001: command("9001/clipcanvas")}
    process, output = recipes.start(starts[port], port)
    job = json.loads(recipes.run(creates[port]))
    recipes.service.wait_until(lambda: job["id"] in output.read_text(), 60)
    assert f"job.succeeded {job['id']}" in output.read_text()
    assert f"/v1/jobs/{job['id']}/outputs/image-0.png" in output.read_text()

    url = f"{recipes.url(port)}/clipcanvas"
    body = json.dumps({"type": "job.succeeded", "data": {"id": "job_forged", "outputs": []}})
    genuine, old = signed(body, time.time()), signed(body, time.time() - 600)
    wrong = genuine | {"webhook-signature": "v1,AAAA v2," + genuine["webhook-signature"][3:]}
    for headers in ({}, old, wrong, genuine | {"webhook-id": "msg_2"}):
        assert httpx.post(url, content=body, headers=headers).status_code == 400
    assert "job_forged" not in output.read_text()
    rotated = genuine | {"webhook-signature": "v1,AAAA " + genuine["webhook-signature"]}
    assert [httpx.post(url, content=body, headers=rotated).status_code for _ in range(2)] == [204, 204]
    recipes.service.wait_until(lambda: output.read_text().count("job_forged") == 1)
    process.terminate()
    process.wait(10)


def signed(body: str, timestamp: float) -> dict[str, str]:
    """The headers of an event, as the service makes them."""
    at = datetime.fromtimestamp(timestamp, UTC)
    signature = Webhook(SECRET).sign("msg_1", at, body)
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(timestamp)),
        "webhook-signature": signature,
    }
