"""The README's quick start works as it is printed."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.recipes.conftest import ROOT, Shell, blocks

pytestmark = pytest.mark.timeout(900)


def test_the_first_commands_run_the_service(tmp_path: Path) -> None:
    [text] = [block for block in blocks("../README.md", "sh") if "make demo" in block]
    demo, serve, _ = (line.partition("#")[0].strip() for line in text.splitlines())
    told = subprocess.run(shlex.split(demo), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert told.returncode == 0, told
    assert re.search(r"^ *cat +0\.[89]", told.stdout, re.MULTILINE)
    with Image.open(ROOT / "data" / "demo" / "heart.png") as picture:
        assert picture.size == (96, 96)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = f"SERVE=--port {port} --data {tmp_path}"
    process = subprocess.Popen([*shlex.split(serve), options], cwd=ROOT, start_new_session=True)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=9)) as browser:
            assert "Clipcanvas" in browser.get(f"http://127.0.0.1:{port}").text
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(90)


def test_the_first_request_has_the_answer_that_is_printed(shell: Shell) -> None:
    [command] = [block for block in blocks("../README.md", "sh") if block.startswith("curl")]
    [printed] = blocks("../README.md", "json")
    said, got = json.loads(printed), json.loads(shell.run(command))
    assert got.keys() == said.keys()
    assert got["usage"] == said["usage"]
    for told, found in zip(said["data"][0]["labels"], got["data"][0]["labels"], strict=True):
        assert found["label"] == told["label"]
        assert found["probability"] == pytest.approx(told["probability"], abs=0.01)


def test_the_curl_commands_do_what_is_said_above_them(shell: Shell) -> None:
    [text] = [block for block in blocks("../README.md", "sh") if "curl -i $URL" in block]
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


def test_the_command_line_and_the_python_programs_work(shell: Shell) -> None:
    [text] = [block for block in blocks("../README.md", "sh") if ".venv/bin/clipcanvas classify" in block]
    told = shell.run(text.replace(".venv/bin/", "").replace("FOLDER", "docs/gallery"))
    assert re.search(r"^cat +[01]\.\d{4}", told, re.MULTILINE)
    assert "0 failed" in told
    program, of_openai = blocks("../README.md", "python")
    (shell.folder / "heart.png").unlink()
    assert shell.run("python -", program).strip() == "cat"
    picture_url = shell.run("python -", of_openai).strip()
    assert httpx.get(picture_url).headers["content-type"] == "image/png"
    with Image.open(shell.folder / "heart.png") as picture:
        assert picture.size == (96, 96)
