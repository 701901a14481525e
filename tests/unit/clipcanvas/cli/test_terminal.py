"""On a terminal one sees a drawing form, the queue move, and bars where one waits."""

import asyncio
import base64
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import AsyncIterator, Mapping
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops
from rich.console import Console
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from clipcanvas.cli.terminal.images import HalfBlocks, Kitty, Sixels, sixels, terminal_image
from clipcanvas.cli.terminal.query import Graphics
from tests.support.contract_server import DONE, JOB
from tests.unit.clipcanvas.cli.conftest import Service
from tests.unit.clipcanvas.conftest import Serve

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
    """A service whose previews are images: red above, blue below.

    Args:
        waits_with: preview or end: what comes when `answered` is set only.
    """

    def __init__(self, *, waits_with: str = "") -> None:
        super().__init__()
        self.answered = threading.Event()
        self._waits_with = waits_with

    async def events(self, request: Request) -> Response:
        answer = await super().events(request)
        assert isinstance(answer, StreamingResponse)
        told = [str(event) async for event in answer.body_iterator]

        async def one_by_one() -> AsyncIterator[str]:
            for event in told[:-1]:
                yield event
            if self._waits_with == "end":
                await asyncio.to_thread(self.answered.wait, 60)
            yield told[-1]

        return StreamingResponse(one_by_one(), media_type="text/event-stream")

    async def output(self, request: Request) -> Response:
        if self._waits_with == "preview":
            await asyncio.to_thread(self.answered.wait, 60)
        image = Image.new("RGB", (32, 32), (255, 0, 0))
        image.paste((0, 0, 255), (0, 16, 32, 32))
        file = BytesIO()
        image.save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")


def on_terminal(
    *words: str,
    until: str | None = None,
    answers: Mapping[str, str] | None = None,
    answered: threading.Event | None = None,
    background: bool = False,
    **variables: str,
) -> tuple[str, int]:
    """Run a command on a terminal of 80 x 40: what it showed, and its exit code.

    Args:
        until: once this is shown, Ctrl-C is typed.
        answers: what the terminal says when it is sent something.
        answered: is set when it has said all of it.
        background: of the terminal.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **variables}
    for size in ("LINES", "COLUMNS"):  # GNU readline, which pytest loads, sets them for processes of xdist
        environment.pop(size, None)
    # as a shell has it: the terminal is the one that controls the process, and what it is at the end is seen
    group = "process_group=0" if background else ""
    keep = [sys.executable, "-c", KEEPER % group, sys.executable, "-m", "clipcanvas", *words]
    process = subprocess.Popen(
        keep, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    shown, waiting = b"", dict(answers or {})
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # nobody holds the other end any more
            break
        for sent in [sent for sent in waiting if sent.encode() in shown]:
            os.write(ours, waiting.pop(sent).encode())
        if answered and not waiting:
            answered.set()
        if until and until in shown.decode(errors="ignore"):
            os.write(ours, b"\x03")
            until = None
    os.close(ours)
    return shown.decode(), process.wait(30)


KEEPER = """
import fcntl, os, select, signal, subprocess, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
before = termios.tcgetattr(0)
signal.signal(signal.SIGINT, lambda *_: None)
code = subprocess.call(sys.argv[1:], %s)
assert termios.tcgetattr(0) == before, "the terminal is not as it was"
termios.tcsetattr(0, termios.TCSANOW, [*before[:3], before[3] & ~termios.ICANON, *before[4:]])
if select.select([0], [], [], 0.1)[0]:
    print("typed:", os.read(0, 1000))
sys.exit(code)
"""


def shown_by(renderable: object, width: int = 80) -> str:
    output = StringIO()
    console = Console(file=output, force_terminal=True, color_system="truecolor", width=width, height=30)
    console.print(renderable)
    return output.getvalue()


def test_a_image_becomes_characters_of_two_pixels() -> None:
    image = Image.new("RGB", (2, 2))
    image.putdata([(1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12)])
    assert shown_by(HalfBlocks(image), width=2) == (
        "\x1b[38;2;1;2;3;48;2;7;8;9m▀\x1b[0m\x1b[38;2;4;5;6;48;2;10;11;12m▀\x1b[0m\n"
    )


@pytest.mark.parametrize(
    ("size", "columns", "rows"), [((96, 48), 48, 12), ((48, 480), 5, 24), ((3, 1), 48, 8)]
)
def test_a_image_keeps_its_shape_and_to_its_room(size: tuple[int, int], columns: int, rows: int) -> None:
    image = Image.new("RGB", size)
    for renderable in (HalfBlocks(image), Sixels(image, (10, 20)), Kitty(image, (10, 20))):
        output = StringIO()
        Console(file=output, width=80, height=40).print(renderable)
        lines = output.getvalue().partition("\x1b7")[0].splitlines()
        assert (len(lines[0]), len(lines)) == (columns, rows)


def test_sixels_are_the_pixels() -> None:
    image = Image.new("RGB", (40, 12), "red")
    image.paste("blue", (3, 2, 30, 8))
    image.putpixel((39, 11), (0, 255, 0))
    assert decoded(sixels(image)).tobytes() == image.tobytes()
    photo = Image.effect_noise((100, 48), 60).convert("RGB")
    difference = ImageChops.difference(decoded(sixels(photo)), photo)
    assert max(high for _, high in difference.getextrema()) < 16  # type: ignore[misc]


def decoded(text: str) -> Image.Image:
    """What a VT340 would draw."""
    size, body = re.fullmatch(r'\x1bP0;1q"1;1;(\d+;\d+)(.*)\x1b\\', text).groups()  # type: ignore[union-attr]
    image = Image.new("RGB", tuple(map(int, size.split(";"))))  # type: ignore[arg-type]
    colors: dict[str, tuple[int, ...]] = {}
    x = y = 0
    color: tuple[int, ...] = ()
    for named, number, values, run, character in re.findall(
        r"(#(\d+)((?:;\d+)*))|(?:!(\d+))?([?-~$-])", body
    ):
        if values:
            colors[number] = tuple(round(int(value) * 255 / 100) for value in values.split(";")[2:])
        elif named:
            color = colors[number]
        elif character == "$":
            x = 0
        elif character == "-":
            x, y = 0, y + 6
        else:
            for x in range(x, x + int(run or 1)):  # noqa: B020
                for row in range(6):
                    if ord(character) - 63 >> row & 1:
                        image.putpixel((x, y + row), color)
            x += 1
    return image


def test_kitty_gets_a_image_once_and_is_told_its_place_again() -> None:
    image = Image.effect_noise((90, 90), 60).convert("RGB")
    renderable = Kitty(image, (10, 20))
    first, again = shown_by(renderable), shown_by(renderable)
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", first)
    assert len(pieces) > 1
    assert re.fullmatch(r"a=T,f=100,i=(\d+),p=1,c=48,r=24,C=1,q=2,m=1", pieces[0][0])
    assert [controls for controls, _ in pieces[1:]] == ["m=1"] * (len(pieces) - 2) + ["m=0"]
    with Image.open(BytesIO(base64.b64decode("".join(data for _, data in pieces)))) as sent:
        assert sent.tobytes() == image.tobytes()
    assert re.search(r"\x1b_Ga=p,i=\d+,p=1,c=48,r=24,C=1,q=2\x1b\\", again)
    assert "f=100" not in again


def test_a_image_is_shown_as_well_as_the_terminal_can(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")

    def shown(graphics: Graphics | None, **console: Any) -> type:
        return type(terminal_image(tmp_path / "a.png", Console(force_terminal=True, **console), graphics))

    both = Graphics(kitty=True, sixel=True, cell=(10, 20))
    assert shown(both, color_system=None) is Kitty
    assert shown(Graphics(kitty=False, sixel=True, cell=(10, 20)), color_system="standard") is Sixels
    nothing = Graphics(kitty=False, sixel=False, cell=(10, 20))
    assert shown(nothing, color_system="256") is shown(None, color_system="truecolor") is HalfBlocks
    assert shown(nothing, color_system=None) is type(None)
    assert shown(None, color_system="256", no_color=True) is type(None)


def test_draw_shows_the_drawing_where_it_can_be_seen(serve: Serve, tmp_path: Path) -> None:
    words = ["draw", "a fox", "-o", str(tmp_path / "fox.png"), "--url", serve(Drawing().app)]
    shown, code = on_terminal(*words)
    assert code == 0
    assert re.search(r"38;2;255;0;0;48;2;255;0;0m▀.*38;2;0;0;255;48;2;0;0;255m▀", shown, re.DOTALL)
    assert "4/4" in shown
    for hidden in (on_terminal(*words, "--no-preview"), on_terminal(*words, TERM="dumb", COLORTERM="")):
        assert hidden[1] == 0
        assert "▀" not in hidden[0]


ASKED = "\x1b[16t\x1b[c"
KITTY_ASKED = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"
SIXEL_ANSWER = "\x1b[6;16;8t\x1b[?62;4;22c"


def test_draw_shows_pixels_where_the_terminal_says_it_can(serve: Serve, tmp_path: Path) -> None:
    drawing = Drawing(waits_with="preview")
    words = ["draw", "a fox", "-o", str(tmp_path / "fox.png"), "--url", serve(drawing.app)]
    shown, code = on_terminal(*words, answers={ASKED: SIXEL_ANSWER}, answered=drawing.answered)
    assert code == 0
    assert KITTY_ASKED not in shown
    [drawn, *_] = re.findall(r"\x1b7\r\x1b\[24A(\x1bP.*?\x1b\\)\x1b8", shown, re.DOTALL)
    image = decoded(drawn)
    assert image.size == (48 * 8, 24 * 16)
    assert [image.getpixel((200, y)) for y in (2, 380)] == [(255, 0, 0), (0, 0, 255)]
    drawing.answered.clear()
    says = {ASKED: "\x1b_Gi=31;OK\x1b\\\x1b[?62;c"}
    shown, code = on_terminal(*words, answers=says, answered=drawing.answered, TERM="xterm-kitty")
    assert code == 0
    assert KITTY_ASKED + ASKED in shown
    assert "\x1b_Ga=T,f=100," in shown
    assert not any(garbage in shown for garbage in ("▀", "typed:", "i=31;OK"))


@pytest.mark.parametrize("says", [None, SIXEL_ANSWER, SIXEL_ANSWER[:12]])
def test_a_terminal_that_does_not_answer_in_time_gets_characters_and_no_garbage(
    says: str | None, serve: Serve, tmp_path: Path
) -> None:
    """What it says after the preview, and what is not whole, is neither shown nor left for the shell."""
    drawing = Drawing(waits_with="end")
    words = ["draw", "a fox", "-o", str(tmp_path / "fox.png"), "--url", serve(drawing.app)]
    shown, code = on_terminal(*words, answers={"▀": says} if says else {}, answered=drawing.answered)
    assert (code, ASKED in shown) == (0, True)
    assert not any(garbage in shown for garbage in ("\x1bP", "typed:", "6;16;8"))


def test_a_terminal_in_front_of_other_programs_is_not_asked(serve: Serve, tmp_path: Path) -> None:
    words = ["draw", "a fox", "-o", str(tmp_path / "fox.png"), "--url", serve(Drawing().app)]
    shown, code = on_terminal(*words, background=True)
    assert (code, ASKED in shown, "▀" in shown) == (0, False, True)


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
