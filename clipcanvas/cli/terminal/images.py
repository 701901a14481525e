"""An image in a terminal: by kitty's protocol, as sixels, or as characters of two pixels each.

textual-image is not used: importing it queries standard output, waits for the answer and may lose typed keys.
"""

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
_OTHER_ROWS = 4  # the bar below the image, and the prompt of the shell
_HALF_CELL = (1, 2)  # pixels, wide and high
_UPPER_HALF = "▀"
_BAND = 6  # rows of pixels that a sixel has
_CHUNK = 4096  # characters of base64 that kitty takes at once
_MOVES_NOTHING = [(ControlType.CURSOR_FORWARD, 0)]  # so that rich counts no width for a segment


def terminal_image(path: Path, console: Console, graphics: Graphics | None) -> RenderableType | None:
    """The best rendering that the terminal can show, in at most `COLUMNS` x `ROWS` characters, or None.

    Args:
        graphics: what the terminal can draw; None if it did not answer.

    Raises:
        OSError: PIL does not know the format of the file.
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
    """Pixels by the VT340's protocol, sent again whenever rich draws the lines around them.

    Args:
        cell: pixels of a character, wide and high.
    """

    def __init__(self, image: Image.Image, cell: tuple[int, int]) -> None:
        self._image, self._cell = image, cell
        self._drawn = ((0, 0), "")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, rows = _fit(self._image, self._cell, console, options)
        # a whole number of bands: none may reach below the reserved rows
        size = (columns * self._cell[0], max(_BAND, rows * self._cell[1] // _BAND * _BAND))
        if self._drawn[0] != size:
            self._drawn = (size, sixels(self._image.resize(size)))
        yield from _over_blanks(columns, rows, self._drawn[1])


class Kitty:
    """Pixels by kitty's graphics protocol: sent once, then placed by their number whenever rich draws again.

    Args:
        cell: pixels of a character, wide and high.
    """

    def __init__(self, image: Image.Image, cell: tuple[int, int]) -> None:
        self._image, self._cell = image, cell
        self._is_sent = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, rows = _fit(self._image, self._cell, console, options)
        # one number, so that each preview replaces the last; C=1: the cursor stays
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
    """The escape sequence that draws an image at the cursor, in up to 256 colors.

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
    """Columns and rows of the largest rectangle of the image's aspect ratio."""
    columns = min(COLUMNS, options.max_width)
    rows = max(1, min(ROWS, console.height - _OTHER_ROWS))
    scale = min(columns * cell[0] / image.width, rows * cell[1] / image.height)
    return max(1, round(image.width * scale / cell[0])), max(1, round(image.height * scale / cell[1]))


def _over_blanks(columns: int, rows: int, drawing: str) -> RenderResult:
    """Blanks that reserve the space in rich, and a drawing over them; the cursor stays below."""
    for _ in range(rows):
        yield Segment(" " * columns)
        yield Segment.line()
    yield Segment(f"\x1b7\r\x1b[{rows}A{drawing}\x1b8", control=_MOVES_NOTHING)
