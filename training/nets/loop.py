"""The loop of a training run: a bar with losses, a log, and checkpoints from which it goes on."""

import argparse
import csv
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from models.runtime.machine import keep_freed_memory

CHECKPOINT, LOG = "checkpoint.pt", "log.csv"
_LOG_EVERY, _SAVE_EVERY = 25, 200  # steps


class Stateful(Protocol):
    """A network, an optimizer: what a checkpoint holds."""

    def state_dict(self) -> dict[str, Any]:
        """All that is to be kept."""

    def load_state_dict(self, state: Any) -> Any:
        """Take it back."""


class Run:
    """Steps of training in a folder. Iterated, it goes on where the folder's checkpoint stopped.

    Args:
        folder: of the checkpoint and the log.
        steps: to take in all.
        parts: what learns, by name.
        rng: from which every random number of a step comes.
    """

    def __init__(self, folder: Path, steps: int, parts: Mapping[str, Stateful], rng: torch.Generator) -> None:
        self.folder, self.steps, self.step = folder, steps, 0
        self._parts, self._rng = parts, rng
        self._sums: dict[str, Tensor] = {}
        self._bar = Progress(
            TextColumn(folder.name),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._rows: list[dict[str, str]] = []
        if (folder / CHECKPOINT).exists():
            self._restore()

    def __iter__(self) -> Iterator[int]:
        with self._bar:
            task = self._bar.add_task("", total=self.steps, completed=self.step, losses="")
            while self.step < self.steps:
                yield self.step
                self.step += 1
                self._bar.update(task, completed=self.step)
                if self.step % _LOG_EVERY == 0:
                    self._bar.update(task, losses=self._note())
                if self.step % _SAVE_EVERY == 0 or self.step == self.steps:
                    self.save()

    @property
    def share(self) -> float:
        """How much of the run is done: 0 to 1."""
        return self.step / self.steps

    def report(self, **losses: Tensor) -> None:
        """Tell a step's losses; the log has their means."""
        for name, loss in losses.items():
            # on its device: to fetch it now would wait for the step
            self._sums[name] = loss.detach().float() / _LOG_EVERY + self._sums.get(name, 0)

    def save(self) -> None:
        """Keep everything, so that the run can go on from here."""
        state = {
            "step": self.step,
            "rng": self._rng.get_state(),
            "sums": self._sums,
            "rows": self._rows,
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
        }
        begun = self.folder / f"{CHECKPOINT}.part"
        torch.save(state, begun)
        begun.rename(self.folder / CHECKPOINT)

    def _restore(self) -> None:
        state = torch.load(self.folder / CHECKPOINT, map_location="cpu", weights_only=True)
        self.step, self._sums, self._rows = state["step"], state["sums"], state["rows"]
        self._rng.set_state(state["rng"])
        for name, part in self._parts.items():
            part.load_state_dict(state["parts"][name])

    def _note(self) -> str:
        """Write the means of the losses down, and say them."""
        row = {"step": str(self.step)} | {name: f"{mean.item():.4f}" for name, mean in self._sums.items()}
        self._sums = {}
        self._rows.append(row)
        with (self.folder / LOG).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in self._rows for name in row)))
            writer.writeheader()
            writer.writerows(self._rows)
        return " ".join(f"{name} {value}" for name, value in row.items() if name != "step")


def arguments(description: str | None, *, steps: int, batch: int) -> argparse.ArgumentParser:
    """The options that all runs have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "folder", type=Path, help="of this run: it goes on there; its weights are written there"
    )
    parser.add_argument(
        "--pictures", type=Path, default=Path("data/pictures"), help="filled by training.pictures"
    )
    parser.add_argument("--steps", type=int, default=steps, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=batch, help="pictures a step; default: %(default)s")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s"
    )
    parser.add_argument(
        "--precision",
        choices=("bf16", "fp32"),
        default="bf16",
        help="of the networks' arithmetic; default: bf16",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser


def prepare(seed: int) -> torch.Generator:
    """Make networks begin the same each time; random numbers for the steps."""
    keep_freed_memory()  # doubles the speed on a CPU
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def autocast(device: str, precision: str) -> AbstractContextManager[None]:
    """Matrix products and convolutions in bf16, if that is the precision."""
    found: AbstractContextManager[None] = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
    return found
