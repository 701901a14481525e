"""A picture in a terminal: by kitty's protocol, as sixels, or as characters that are two pixels each."""

import base64
import os
import re
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import ControlType, Segment
from rich.style import Style

from clipcanvas.cli.terminal.query import Graphics

COLUMNS = 48
ROWS = 24
_OTHER_ROWS = 4  # the bar below the picture, and what the shell says next
_HALF_CELL = (1, 2)  # pixels, wide and high
_UPPER_HALF = "▀"
_BAND = 6  # rows of pixels that a sixel has
_CHUNK = 4096  # characters of base64 that kitty takes at once
_MOVES_NOTHING = [(ControlType.CURSOR_FORWARD, 0)]  # tells rich that a segment takes no room


def picture(path: Path, console: Console, graphics: Graphics | None) -> RenderableType | None:
    """A picture as the terminal shows it best, in at most `COLUMNS` x `ROWS` characters; None if it cannot.

    Args:
        graphics: what the terminal says it can draw, if it said anything.

    Raises:
        OSError: the file is no picture that PIL knows.
    """
    with Image.open(path) as file:
        image = file.convert("RGB")
    if graphics and graphics.kitty:
        return Kitty(image, graphics.cell)
    if graphics and graphics.sixel:
        return Sixels(image, graphics.cell)
    has_colors = console.color_system in ("256", "truecolor") and not console.no_color
    return HalfBlocks(image) if console.is_terminal and has_colors else None


class HalfBlocks:
    """Two pixels to a character, one above the other."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, rows = _fit(self._image, _HALF_CELL, console, options)
        pixels = self._image.resize((width, 2 * rows)).tobytes()  # three bytes each, row by row
        for row in range(0, 2 * rows, 2):
            for column in range(width):
                upper = 3 * (row * width + column)
                lower = upper + 3 * width
                color = Color.from_rgb(*pixels[upper : upper + 3])
                below = Color.from_rgb(*pixels[lower : lower + 3])
                yield Segment(_UPPER_HALF, Style(color=color, bgcolor=below))
            yield Segment.line()


class Sixels:
    """Pixels, by the protocol of the VT340; they are drawn again whenever the lines around them are.

    Args:
        cell: pixels of a character, wide and high.
    """

    def __init__(self, image: Image.Image, cell: tuple[int, int]) -> None:
        self._image, self._cell = image, cell
        self._drawn = ((0, 0), "")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, rows = _fit(self._image, self._cell, console, options)
        # no band hangs over
        size = (columns * self._cell[0], max(_BAND, rows * self._cell[1] // _BAND * _BAND))
        if self._drawn[0] != size:
            self._drawn = (size, sixels(self._image.resize(size)))
        yield from _over_blanks(columns, rows, self._drawn[1])


class Kitty:
    """Pixels by kitty's graphics protocol: the terminal keeps them, and is told each time where they belong.

    Args:
        cell: pixels of a character, wide and high.
    """

    def __init__(self, image: Image.Image, cell: tuple[int, int]) -> None:
        self._image, self._cell = image, cell
        self._is_sent = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, rows = _fit(self._image, self._cell, console, options)
        # one number, so that each preview takes the place of the one before; C=1: the cursor stays
        where = f"i={os.getpid()},p=1,c={columns},r={rows},C=1,q=2"
        if self._is_sent:
            put = f"\x1b_Ga=p,{where}\x1b\\"
        else:
            put = "".join(self._pieces(f"a=T,f=100,{where}", (columns * self._cell[0], rows * self._cell[1])))
        self._is_sent = True
        yield from _over_blanks(columns, rows, put)

    def _pieces(self, first: str, most: tuple[int, int]) -> Iterable[str]:
        small = self._image.copy()
        small.thumbnail(most)
        file = BytesIO()
        small.save(file, "PNG")
        text = base64.b64encode(file.getvalue()).decode()
        for start in range(0, len(text), _CHUNK):
            more = int(start + _CHUNK < len(text))
            yield f"\x1b_G{f'{first},' if start == 0 else ''}m={more};{text[start : start + _CHUNK]}\x1b\\"


def sixels(image: Image.Image) -> str:
    """A picture of up to 256 colors as the sequence that draws it at the cursor.

    As in chapter 14 of the VT330/VT340 programmer reference: colors in percent, then six rows at a time, each
    color of them by characters of which every one is a column of six bits.
    """
    import numpy as np

    indexed = image.quantize(256)
    codes = np.asarray(indexed)  # (H, W)
    palette = (np.reshape(indexed.getpalette() or [], (-1, 3)) * 100 + 127) // 255  # (256, 3), in percent
    parts = [f'\x1bP0;1q"1;1;{image.width};{image.height}']
    parts += [f"#{number};2;{red};{green};{blue}" for number, (red, green, blue) in enumerate(palette)]
    for top in range(0, image.height, _BAND):
        band = codes[top : top + _BAND]  # (6, W)
        bits = np.left_shift(1, np.arange(len(band)))
        for number in np.unique(band):
            columns = bits @ (band == number)  # (W,)
            parts.append(f"#{number}{_shortened(bytes((columns + 63).astype(np.uint8)).decode())}$")
        parts.append("-")
    return "".join([*parts, "\x1b\\"])


def _shortened(text: str) -> str:
    """Runs of a character as its number and itself."""
    return re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", text.rstrip("?"))


def _fit(
    image: Image.Image, cell: tuple[int, int], console: Console, options: ConsoleOptions
) -> tuple[int, int]:
    """Columns and rows of the largest rectangle that has the picture's shape."""
    columns = min(COLUMNS, options.max_width)
    rows = max(1, min(ROWS, console.height - _OTHER_ROWS))
    scale = min(columns * cell[0] / image.width, rows * cell[1] / image.height)
    return max(1, round(image.width * scale / cell[0])), max(1, round(image.height * scale / cell[1]))


def _over_blanks(columns: int, rows: int, drawing: str) -> RenderResult:
    """Blanks, so that rich knows the room, and a drawing over them; the cursor stays below."""
    for _ in range(rows):
        yield Segment(" " * columns)
        yield Segment.line()
    yield Segment(f"\x1b7\r\x1b[{rows}A{drawing}\x1b8", control=_MOVES_NOTHING)
