"""Each command prints what a person or a program needs, and ends with the exit code that it promises."""

import asyncio
import base64
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from clipcanvas.cli.main import main
from tests.support.contract_server import DONE, JOB, problem
from tests.unit.clipcanvas.cli.conftest import Service
from tests.unit.clipcanvas.conftest import Serve

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process; the exit code."""

    def call(*words: str, url: str = "") -> int:
        monkeypatch.setattr(sys, "argv", ["clipcanvas", *words, *(["--url", url] if url else [])])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return call


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipcanvas.client.transport.FIRST_PAUSE_S", 0.02)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"image")
    return str(path)


def test_classify_prints_the_labels_best_first(
    run: Run, serve: Serve, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Service()
    assert run("classify", photo, "dog", "cat", url=serve(service.app)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["cat", "0.9000"], ["dog", "0.1000"]]
    assert service.asked[0][1]["labels"] == ["dog", "cat"]


def test_json_prints_the_whole_answer(
    run: Run, serve: Serve, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("classify", photo, "dog", "--json", url=serve(Service().app)) == 0
    assert json.loads(capsys.readouterr().out)["data"][0]["labels"][0]["label"] == "cat"


def test_a_file_is_an_image_and_the_rest_is_text(
    run: Run, serve: Serve, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Service()
    assert run("rank", "a cat", "some text", photo, url=serve(service.app)) == 0
    asked = service.asked[0][1]
    assert (asked["query"], asked["candidates"]) == (
        {"text": "a cat"},
        [{"text": "some text"}, {"image": "aW1hZ2U="}],
    )
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "1"


def test_a_misspelled_image_is_no_text(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embed", "no-such-cat.jpg") == 2
    assert "cannot read no-such-cat.jpg" in capsys.readouterr().err


def test_embed_shows_vectors(run: Run, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embed", "a cat", url=serve(Service().app)) == 0
    assert "+0.6000 +0.8000" in capsys.readouterr().out


def test_draw_saves_the_image_and_leaves_nothing_else(
    run: Run, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Service()
    words = ["--size", "64x32", "--steps", "4", "--seed", "7", "-O", "cutouts=8", "-O", "start=noise"]
    output = tmp_path / "fox.png"
    assert run("draw", "a fox", "-o", str(output), *words, url=serve(service.app)) == 0
    assert output.read_bytes() == b"bytes of image-0.png"
    assert [path.name for path in tmp_path.iterdir()] == ["fox.png"]
    assert service.asked[0][1] == {
        "prompt": "a fox",
        "width": 64,
        "height": 32,
        "steps": 4,
        "seed": 7,
        "options": {"cutouts": 8, "start": "noise"},
    }
    printed = capsys.readouterr()
    assert printed.out == f"{output}\n"
    assert "job_1 took 2.0 s with seed 7" in printed.err


def test_draw_of_several_images_numbers_their_files(run: Run, serve: Serve, tmp_path: Path) -> None:
    outputs = [DONE["outputs"][0] | {"name": f"image-{image}.png"} for image in range(2)]
    service = Service(DONE | {"outputs": outputs})
    assert run("draw", "a fox", "-n", "2", "-o", str(tmp_path / "fox.png"), url=serve(service.app)) == 0
    assert (tmp_path / "fox-1.png").read_bytes() == b"bytes of image-1.png"


def test_draw_sends_presets_images_and_what_to_keep(run: Run, serve: Serve, tmp_path: Path) -> None:
    service = Service()
    for name in ("init", "mask", "style"):
        (tmp_path / name).write_bytes(name.encode())
    words = ["--quality", "draft", "--aspect", "portrait", "--compat", "pixray", "--video", "mp4"]
    words += ["--init-image", str(tmp_path / "init"), "--mask", str(tmp_path / "mask")]
    words += [
        "-O",
        f"style_image=@{tmp_path / 'style'}",
        "--save",
        "thumbnail=64",
        "-o",
        str(tmp_path / "fox.jpg"),
    ]
    assert run("draw", "a fox", *words, url=serve(service.app)) == 0
    assert service.asked[0][1] == {
        "prompt": "a fox",
        "quality": "draft",
        "aspect": "portrait",
        "compat": "pixray",
        "options": {
            name: base64.b64encode(data).decode()
            for name, data in (("init_image", b"init"), ("mask", b"mask"), ("style_image", b"style"))
        },
        "save": {"thumbnail": 64, "format": "jpeg", "video": "mp4"},
    }


def test_draw_saves_what_was_asked_for_beside_the_image(
    run: Run, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {"image-0.webp": "image", "image-1.webp": "image", "image-0.json": "sidecar"}
    kinds |= {"video-0.mp4": "video", "contact-sheet.webp": "contact_sheet"}
    outputs = [DONE["outputs"][0] | {"name": name, "kind": kind} for name, kind in kinds.items()]
    service = Service(DONE | {"outputs": outputs})
    output = tmp_path / "fox.webp"
    assert run("draw", "a fox", "-o", str(output), url=serve(service.app)) == 0
    names = ["fox.webp", "fox-1.webp", "fox-video-0.mp4", "fox-contact-sheet.webp"]
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in names]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert (tmp_path / "fox-video-0.mp4").read_bytes() == b"bytes of video-0.mp4"


def test_a_detached_job_is_only_named(run: Run, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("draw", "a fox", "--detach", url=serve(Service().app)) == 0
    assert capsys.readouterr().out == "job_1\n"


def test_a_job_that_failed_ends_with_1_and_says_why(
    run: Run, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"code": "diverged", "detail": "the loss is not finite", "retryable": False}
    service = Service(DONE | {"status": "failed", "error": error, "outputs": []})
    output = tmp_path / "fox.png"
    assert run("draw", "a fox", "-o", str(output), url=serve(service.app)) == 1
    assert "error: job job_1 failed: the loss is not finite (diverged)" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["draw", "a fox", "--size", "large"],
        ["draw", "a fox", "-O", "novalue"],
        ["draw", "a fox", "-o", "/no/such/folder/fox.png"],
        ["classify", "no-such-file.jpg", "cat"],
        ["classify"],
        ["models", "served", "--url", "not a url"],
        ["serve", "--workers", "-1"],
        ["nonsense"],
    ],
)
def test_wrong_usage_ends_with_2(run: Run, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_service_that_is_not_there_ends_with_3(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    assert run("jobs", "list", url=url) == 3
    assert f"error: no answer from {url}" in (told := capsys.readouterr().err)
    assert "clipcanvas serve" in told


def test_a_refusal_ends_with_4_and_names_the_field(
    run: Run, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(request: Request) -> Response:
        errors = [{"pointer": "/prompt", "code": "too_long", "detail": "at most 1000 characters"}]
        return problem(422, "invalid_request", "the request is not valid", errors=errors)

    url = serve(Starlette(routes=[Route("/v1/jobs", refuse, methods=["POST"])]))
    assert run("draw", "a fox", url=url) == 4
    told = capsys.readouterr().err
    assert "error: the request is not valid (422 invalid_request)" in told
    assert "/prompt: at most 1000 characters" in told
    assert "request req-1" in told


def test_waiting_too_long_ends_with_6(run: Run, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("jobs", "wait", "job_1", "--timeout", "0", url=serve(Service(JOB).app)) == 6
    assert "still queued" in capsys.readouterr().err


def test_ctrl_c_cancels_the_job_and_says_so(serve: Serve, tmp_path: Path) -> None:
    service = Service()

    async def endless(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b'id: 1-0\nevent: status\ndata: {"status": "running"}\n\n'
            await asyncio.sleep(60)

        return StreamingResponse(body(), media_type="text/event-stream")

    service.app.router.routes.insert(0, Route("/v1/jobs/job_1/events", endless))
    argv = [sys.executable, "-m", "clipcanvas", "draw", "a fox", "-o", str(tmp_path / "fox.png")]
    drawing = subprocess.Popen([*argv, "--url", serve(service.app)], stderr=subprocess.PIPE, text=True)
    assert drawing.stderr is not None
    told = ""
    while "running" not in told:
        told += drawing.stderr.readline()
    drawing.send_signal(signal.SIGINT)
    assert drawing.communicate(timeout=20)[1] == "canceled job_1\n"
    assert drawing.returncode == 130
    assert service.asked[-1][0] == "/v1/jobs/job_1/cancel"


def test_jobs_are_listed_shown_waited_for_and_canceled(
    run: Run, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Service()
    url = serve(service.app)
    assert run("jobs", "list", url=url) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split()[:3] == ["job_1", "succeeded", "4/4"]
    assert "--after job_1" in printed.err
    assert run("jobs", "show", "job_1", url=url) == 0
    shown = capsys.readouterr().out
    assert "draw       a fox" in shown
    assert f"output     {url}/v1/jobs/job_1/outputs/image-0.png" in shown
    assert run("jobs", "wait", "job_1", "-o", str(tmp_path / "fox.png"), url=url) == 0
    assert (tmp_path / "fox.png").read_bytes() == b"bytes of image-0.png"
    assert run("jobs", "cancel", "job_1", url=url) == 0
    assert "stops within a step" in capsys.readouterr().out
    assert service.asked[-1][0] == "/v1/jobs/job_1/cancel"


def test_a_job_that_indexes_is_shown_as_one(
    run: Run, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    request = {"collection": "pets", "replace": False}
    service = Service(DONE | {"type": "index", "generator": None, "request": request, "outputs": []})
    assert run("jobs", "show", "job_1", url=serve(service.app)) == 0
    shown = capsys.readouterr().out
    assert "index     into pets" in shown
    assert "size" not in shown


def test_help_is_quick_because_it_imports_little() -> None:
    code = (
        "import sys; from clipcanvas.cli.main import main; sys.argv = ['clipcanvas', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "loaded = {'httpx', 'pydantic', 'torch', 'redis', 'rich.table', 'asyncio'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # time of this process alone: how busy the machine is does not matter
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_version_is_the_package_s(run: Run) -> None:
    environment = os.environ | {"COLUMNS": "80"}
    answer = subprocess.run(
        [sys.executable, "-m", "clipcanvas", "--version"], env=environment, capture_output=True, text=True
    )
    assert answer.stdout.startswith("clipcanvas "), answer.stderr
