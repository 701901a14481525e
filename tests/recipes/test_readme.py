"""The README's quick start works as it is printed."""

import json
import re

import pytest
from PIL import Image

from tests.recipes.conftest import Shell, blocks

pytestmark = pytest.mark.timeout(900)


def test_the_curl_commands_do_what_is_said_above_them(shell: Shell) -> None:
    [text] = [block for block in blocks("../README.md", "sh") if "/v1/classify" in block]
    before, asked, after = text.partition("curl -i $URL/v1/jobs")
    told = shell.run(before)
    assert '"label":"cat"' in told
    assert '"id":"cat.jpg","similarity"' in told
    url = before.partition("\n")[0]
    create, _, follow = (asked + after).partition("\n")
    answer = shell.run(f"{url}\n{create}")
    assert "202 Accepted" in answer
    job = json.loads(answer.partition("\n\n")[2])
    followed = shell.run(f"{url}\n{follow.replace('job_…', job['id'])}")
    assert re.search(r'event: completed\n.*"status": "succeeded"', followed)
    with Image.open(shell.folder / "image-0.png") as picture:
        assert picture.format == "PNG"


def test_the_command_line_and_the_python_program_work(shell: Shell) -> None:
    [text] = [block for block in blocks("../README.md", "sh") if ".venv/bin/clipcanvas classify" in block]
    told = shell.run(text.replace(".venv/bin/", "").replace("FOLDER", "docs/gallery"))
    assert re.search(r"^cat +[01]\.\d{4}", told, re.MULTILINE)
    assert "0 failed" in told
    [program] = blocks("../README.md", "python")
    (shell.folder / "heart.png").unlink()
    assert shell.run("python -", program).strip() == "cat"
    with Image.open(shell.folder / "heart.png") as picture:
        assert picture.size == (96, 96)
