"""`python -m models.catalog`: what `clipcanvas models` runs; says what is done in lines of JSON.

A line is `{"progress": [what, done, of]}`, or the last, `{"result": ...}` or `{"error": text, "type": name}`.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.catalog import UnknownModel, entries, find
from models.catalog.convert import CannotConvert, convert
from models.catalog.download import TransferFailed
from models.catalog.pull import pull, verify_files
from models.catalog.sandbox import How
from models.weights_io import WeightsError
from models.weights_io.card import WEIGHTS

_EVERY_S = 0.1
_TRUE = ("1", "on", "true", "yes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one thing; the exit status is 1 if it could not be done."""
    options = _parser().parse_args(arguments)
    try:
        _tell({"result": _do(options)})
    except (CannotConvert, TransferFailed, UnknownModel, WeightsError, OSError) as error:
        _tell({"error": str(error), "type": type(error).__name__})
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.catalog", description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    commands.add_parser("show").add_argument("name")
    pulling = commands.add_parser("pull")
    pulling.add_argument("name")
    pulling.add_argument("--url")
    pulling.add_argument("--sha256")
    pulling.add_argument("--offline", action="store_true")
    commands.add_parser("verify").add_argument("names", nargs="*")
    converting = commands.add_parser("convert")
    converting.add_argument("source", type=Path)
    converting.add_argument("name")
    converting.add_argument("--config", type=Path)
    converting.add_argument("--dtype", choices=["fp32", "fp16", "bf16"])
    converting.add_argument("--decoder-only", action="store_true")
    for command in (pulling, converting):
        command.add_argument("--memory", type=int)
        command.add_argument("--seconds", type=int, default=How().seconds)
    return parser


def _do(options: argparse.Namespace) -> Any:
    weights = options.weights.absolute()
    match options.command:
        case "list":
            return [entry.describe() for entry in entries(weights)]
        case "show":
            return find(options.name, weights).describe()
        case "pull":
            return pull(
                options.name,
                weights,
                _Teller(),
                url=options.url,
                sha256=options.sha256,
                offline=options.offline or os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE,
                how=How(memory=options.memory, seconds=options.seconds),
            )
        case "verify":
            chosen = [find(name, weights) for name in options.names]
            chosen = chosen or [entry for entry in entries(weights) if entry.is_here]
            return {entry.name: verify_files(entry) for entry in chosen}
        case _:
            return convert(
                options.source,
                options.name,
                weights,
                _Teller(),
                config=options.config,
                how=How(options.dtype, options.decoder_only, options.memory, options.seconds),
            )


class _Teller:
    """Tells progress, and not too often."""

    def __init__(self) -> None:
        self._what, self._told_s = "", 0.0

    def __call__(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if what == self._what and now < self._told_s + _EVERY_S and done != total:
            return
        self._what, self._told_s = what, now
        _tell({"progress": [what, done, total]})


def _tell(line: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
