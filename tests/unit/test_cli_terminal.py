"""On a terminal one sees a drawing form, the queue move, and bars where one waits."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from io import BytesIO, StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clipcanvas.half_blocks import HalfBlocks, can_show
from tests.contract_server import DONE, JOB
from tests.unit.conftest import Serve
from tests.unit.test_cli_commands import Service

pytestmark = pytest.mark.timeout(180)  # processes that start on a busy machine

RUNNING = JOB | {
    "id": "job_2",
    "status": "running",
    "progress": {"step": 1, "steps": 4, "fraction": 0.25, "eta_s": 180},
}
WORKER = {
    "name": "w1",
    "state": "busy",
    "device": "cpu",
    "host": "atelier",
    "pid": 17,
    "job": "job_2",
    "since": 0,
}


class Queue:
    """A queue with a job that runs and one that waits."""

    def __init__(self, service: Service) -> None:
        self.app = service.app
        self.app.router.routes[0:0] = [Route("/v1/queue", self.show), Route("/v1/jobs", self.list)]

    async def show(self, request: Request) -> Response:
        return JSONResponse({"queued": 1, "running": 1, "workers": [WORKER]})

    async def list(self, request: Request) -> Response:
        wanted = [job for job in (JOB, RUNNING) if job["status"] == request.query_params["status"]]
        return JSONResponse({"data": wanted, "has_more": False, "last_id": None})


class Drawing(Service):
    """A service whose previews are pictures: red above, blue below."""

    async def output(self, request: Request) -> Response:
        image = Image.new("RGB", (32, 32), (255, 0, 0))
        image.paste((0, 0, 255), (0, 16, 32, 32))
        file = BytesIO()
        image.save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")


def on_terminal(*words: str, until: str | None = None, **variables: str) -> tuple[str, int]:
    """Run a command on a terminal of 80 x 40: what it showed, and its exit code.

    Args:
        until: once this is shown, Ctrl-C is typed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **variables}
    command = [sys.executable, "-m", "clipcanvas", *words]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # nobody holds the other end any more
            break
        if until and until in shown.decode(errors="ignore"):
            process.send_signal(signal.SIGINT)
            until = None
    os.close(ours)
    return shown.decode(), process.wait(30)


def test_a_picture_becomes_characters_of_two_pixels(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 2))
    image.putdata([(1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12)])
    image.save(tmp_path / "a.png")
    output = StringIO()
    console = Console(file=output, force_terminal=True, color_system="truecolor", width=2, height=30)
    console.print(HalfBlocks(tmp_path / "a.png"))
    assert output.getvalue() == (
        "\x1b[38;2;1;2;3;48;2;7;8;9m▀\x1b[0m\x1b[38;2;4;5;6;48;2;10;11;12m▀\x1b[0m\n"
    )


@pytest.mark.parametrize(
    ("size", "columns", "rows"), [((96, 48), 48, 12), ((48, 480), 5, 24), ((3, 1), 48, 8)]
)
def test_a_picture_keeps_its_shape_and_to_its_room(
    size: tuple[int, int], columns: int, rows: int, tmp_path: Path
) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    output = StringIO()
    Console(file=output, width=80, height=40).print(HalfBlocks(tmp_path / "a.png"))
    lines = output.getvalue().splitlines()
    assert (len(lines[0]), len(lines)) == (columns, rows)


def test_pictures_are_for_terminals_with_colors() -> None:
    assert can_show(Console(force_terminal=True, color_system="256"))
    assert not can_show(Console(force_terminal=True, color_system=None))
    assert not can_show(Console(file=StringIO()))


def test_draw_shows_the_drawing_where_it_can_be_seen(serve: Serve, tmp_path: Path) -> None:
    words = ["draw", "a fox", "-o", str(tmp_path / "fox.png"), "--url", serve(Drawing().app)]
    shown, code = on_terminal(*words)
    assert code == 0
    assert re.search(r"38;2;255;0;0;48;2;255;0;0m▀.*38;2;0;0;255;48;2;0;0;255m▀", shown, re.DOTALL)
    assert "4/4" in shown
    for hidden in (on_terminal(*words, "--no-preview"), on_terminal(*words, TERM="dumb", COLORTERM="")):
        assert hidden[1] == 0
        assert "▀" not in hidden[0]


def test_a_preview_that_cannot_be_shown_harms_nothing(serve: Serve, tmp_path: Path) -> None:
    shown, code = on_terminal("draw", "a fox", "-o", str(tmp_path / "fox.png"), "--url", serve(Service().app))
    assert code == 0
    assert "▀" not in shown


def test_top_is_live_until_ctrl_c(serve: Serve) -> None:
    shown, code = on_terminal("top", "--interval", "0.2", "--url", serve(Queue(Service()).app), until="a fox")
    assert code == 0
    assert "1 queued, 1 running, 1 workers" in shown
    assert "atelier" in shown
    assert "█████···············" in shown
    assert "3 min" in shown


def test_top_elsewhere_looks_once(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    url = serve(Queue(Service()).app)
    command = [sys.executable, "-m", "clipcanvas", "top", "--url", url]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.index("job_2") < told.rindex("job_1")
    looked = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    assert '"queued": 1' in looked
    assert '"host": "atelier"' in looked


def test_waiting_for_a_job_shows_how_far_it_is(serve: Serve) -> None:
    service = Service()
    states = [RUNNING, RUNNING, DONE]

    async def show(request: Request) -> Response:
        return JSONResponse(states.pop(0) if len(states) > 1 else states[0])

    service.app.router.routes.insert(0, Route("/v1/jobs/job_2", show))
    shown, code = on_terminal("jobs", "wait", "job_2", "--url", serve(service.app))
    assert code == 0
    assert "100/100" in shown
