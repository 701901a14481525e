"""A picture in a terminal: each character is two pixels, one above the other."""

from pathlib import Path

from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

COLUMNS = 48
ROWS = 24
_OTHER_ROWS = 4  # the bar below the picture, and what the shell says next
_UPPER_HALF = "▀"


class HalfBlocks:
    """Renders a picture no larger than `COLUMNS` x `ROWS` characters or the terminal."""

    def __init__(self, path: Path) -> None:
        with Image.open(path) as image:
            self._image = image.convert("RGB")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = min(COLUMNS, options.max_width)
        rows = max(1, min(ROWS, console.height - _OTHER_ROWS))
        scale = min(columns / self._image.width, 2 * rows / self._image.height)  # half a character is square
        width = max(1, round(self._image.width * scale))
        height = max(2, round(self._image.height * scale / 2) * 2)
        pixels = self._image.resize((width, height)).tobytes()  # three bytes each, row by row
        for row in range(0, height, 2):
            for column in range(width):
                upper = 3 * (row * width + column)
                lower = upper + 3 * width
                color = Color.from_rgb(*pixels[upper : upper + 3])
                below = Color.from_rgb(*pixels[lower : lower + 3])
                yield Segment(_UPPER_HALF, Style(color=color, bgcolor=below))
            yield Segment.line()


def can_show(console: Console) -> bool:
    """Whether the terminal has enough colors for pictures."""
    return console.is_terminal and console.color_system in ("256", "truecolor")
