"""Ask the terminal what it can draw, without waiting for the answer and without showing it."""

import os
import re
import select
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any

ANSWER_S = 0.5  # seconds for the answer; a drawing takes longer, so `close` seldom waits
_DEVICE = re.compile(rb"\x1b\[\?([\d;]+)c")  # the answer to "\x1b[c", which every terminal knows; 4 is sixels
_CELL = re.compile(rb"\x1b\[6;([1-9]\d*);([1-9]\d*)t")  # to "\x1b[16t": height and width of a character
_KITTY = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"
_HAS_KITTY = re.compile(rb"\x1b_Gi=31;OK\x1b\\")
_SMALL_CELL = (8, 16)  # pixels, where the terminal does not say: an image that is too small still fits


@dataclass(frozen=True)
class Graphics:
    """What a terminal draws beside characters.

    Attributes:
        cell: pixels of a character, wide and high.
    """

    kitty: bool
    sixel: bool
    cell: tuple[int, int]


class TerminalQuery:
    """Asks the terminal on standard error and reads the answer on standard input; call `close` at the end.

    Until the answer is complete, the terminal shows neither the answer nor typed text. A process in the
    background does not ask.
    """

    def __init__(self) -> None:
        self._mode: list[Any] | None = None  # the mode to restore; None if there is nothing to restore
        self._answer = b""
        self._graphics: Graphics | None = None
        if sys.platform == "win32" or os.environ.get("TERM", "dumb") == "dumb" or not _is_ours():
            return
        import termios
        import tty

        self._mode = termios.tcgetattr(0)
        tty.setcbreak(0, termios.TCSANOW)
        self._until = time.monotonic() + ANSWER_S
        # other terminals may print kitty's query as text; "\x1b[c" goes last, so its answer comes last
        may_be_kitty = re.search("kitty|ghostty", os.environ["TERM"])
        os.write(2, f"{_KITTY if may_be_kitty else ''}\x1b[16t\x1b[c".encode())

    def graphics(self) -> Graphics | None:
        """What the terminal can draw, or None while the answer is missing."""
        if self._mode is not None and _is_ours():
            self._read(0)
        return self._graphics

    def close(self) -> None:
        """Restore the terminal's mode, after the answer: the shell would read a late answer as typed text."""
        if self._mode is not None and _is_ours():
            while self._mode is not None and (left_s := self._until - time.monotonic()) > 0:
                self._read(left_s)
            self._restore()

    def _read(self, patience_s: float) -> None:
        if not select.select([0], [], [], patience_s)[0]:
            return
        chunk = os.read(0, 4096)
        self._answer += chunk
        if not chunk:  # the terminal has hung up
            self._restore()
        elif device := _DEVICE.search(self._answer):
            cell = _CELL.search(self._answer)
            self._graphics = Graphics(
                kitty=bool(_HAS_KITTY.search(self._answer)),
                sixel=b"4" in device[1].split(b";"),
                cell=(int(cell[2]), int(cell[1])) if cell else _cell_of_window() or _SMALL_CELL,
            )
            self._restore()

    def _restore(self) -> None:
        import termios

        if self._mode is not None:
            # TCSAFLUSH drops the part of an answer that has arrived
            termios.tcsetattr(0, termios.TCSADRAIN if self._graphics else termios.TCSAFLUSH, self._mode)
            self._mode = None


def _cell_of_window() -> tuple[int, int] | None:
    """Pixels of a character by the size of the terminal's window, where the system knows it."""
    import fcntl
    import termios

    rows, columns, width, height = struct.unpack("HHHH", fcntl.ioctl(2, termios.TIOCGWINSZ, bytes(8)))
    cell = (width // max(columns, 1), height // max(rows, 1))
    return cell if all(cell) else None


def _is_ours() -> bool:
    """Whether input and error are one terminal, with this process in its foreground."""
    try:
        return os.isatty(0) and os.fstat(0).st_rdev == os.fstat(2).st_rdev and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False
