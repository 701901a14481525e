"""Where the lines of the service's processes go: a file for each process, and what a person sees of them."""

import contextlib
import json
import logging
import sys
from collections import deque
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

_COLORS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta")
_LEVEL_COLORS = {"warning": "yellow", "error": "red", "critical": "bold red"}
_FILE_BYTES = 10 * 2**20
_KEPT_FILES = 3
_TAIL_LINES = 15


class Logbook:
    """Writes every line to `folder/<process>.log`, and shows it: colored on a terminal, as it came elsewhere.

    Args:
        hidden: processes whose lines are kept, but not shown.
    """

    def __init__(self, folder: Path, hidden: frozenset[str] = frozenset({"redis"})) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._hidden = hidden
        self._files: dict[str, logging.Handler] = {}
        self._tails: dict[str, deque[str]] = {}
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def write(self, process: str, line: str) -> None:
        """Take one line of a process."""
        if process not in self._files:
            path = self.folder / f"{process}.log"
            self._files[process] = _LogFile(
                path, maxBytes=_FILE_BYTES, backupCount=_KEPT_FILES, encoding="utf-8"
            )
            self._tails[process] = deque(maxlen=_TAIL_LINES)
        self._files[process].emit(logging.makeLogRecord({"msg": line}))
        self._tails[process].append(line)
        if process not in self._hidden:
            with contextlib.suppress(OSError):  # nobody looks any more; the service goes on
                self._show(process, line)

    def say(self, event: str, level: str = "info", **fields: Any) -> None:
        """Write a line of the launcher's own."""
        record = {"event": event, **fields, "level": level, "timestamp": datetime.now(UTC).isoformat()}
        self.write("launcher", json.dumps(record, ensure_ascii=False))

    def reveal(self, process: str) -> None:
        """Show the last lines of a hidden process."""
        for line in self._tails.get(process, ()) if process in self._hidden else ():
            self._show(process, line)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _show(self, process: str, line: str) -> None:
        if not self._console.is_terminal:
            sys.stderr.write(line + "\n")
            return
        names = list(self._files)
        prefix = Text(f"{process:<9}| ", style=_COLORS[names.index(process) % len(_COLORS)])
        self._console.print(Text.assemble(prefix, _readable(line)))


class _LogFile(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk must not stop what is still running."""


def _readable(line: str) -> Text:
    try:
        record = json.loads(line)
        event, level = str(record.pop("event")), str(record.pop("level", "info"))
    except (ValueError, AttributeError, KeyError, TypeError):
        return Text(line)
    stack = record.pop("exception", None)
    for noise in ("timestamp", "logger"):
        record.pop(noise, None)
    text = Text(event, style=_LEVEL_COLORS.get(level, ""))
    for name, value in record.items():
        if value is None:
            continue
        text.append(f" {name}=", style="dim").append(str(value))
    return text.append(f"\n{stack}") if stack else text
