"""The command line explains itself: examples that can be typed, exit codes, completion."""

import contextlib
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from clipcanvas.cli.main import app


def commands(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name), command


COMMANDS = dict(commands(get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_examples_that_it_takes(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options, arguments, kinds of values; what a service says to them is tried elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("holidays.ndjson", "cat.jpg", "photo.jpg", "photos.tar", "addresses.txt"):
        (tmp_path / name).touch()
    (tmp_path / "pretrained/dalle_bart_mini").mkdir(parents=True)
    for name in ("last.ckpt", "epoch_32.pt", "model.yaml", "open_clip_config.json"):
        (tmp_path / name).touch()
    told = COMMANDS[words].help.partition("Examples:\n")[2]
    examples = [shlex.split(line) for line in told.splitlines() if line.strip()]
    assert examples
    for example in examples:
        assert tuple(example[: len(words) + 1]) == ("clipcanvas", *words)
        COMMANDS[words].make_context(" ".join(words), example[len(words) + 1 :])


def test_every_command_that_asks_the_service_answers_in_json_too() -> None:
    lacking = {
        words
        for words, command in COMMANDS.items()
        if "as_json" not in {parameter.name for parameter in command.params}
    }
    assert lacking == {("serve",)}


def test_the_exit_codes_are_told() -> None:
    from clipcanvas.cli.terminal import console

    codes = {value for name, value in vars(console).items() if name.isupper() and isinstance(value, int)}
    told = {int(code) for code in re.findall(r"(\d+) [a-z]", console.EXIT_CODES)}
    assert told == codes


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("clipcanvas cl", "classify"), ("clipcanvas jobs ca", "cancel"), ("clipcanvas draw --qu", "--quality")],
)
def test_the_shell_completes_what_is_typed(typed: str, offered: str) -> None:
    environment = os.environ | {
        "_CLIPCANVAS_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    command = Path(sys.executable).with_name("clipcanvas")
    answer = subprocess.run([command], env=environment, capture_output=True, text=True)
    assert offered in answer.stdout.split()


@pytest.mark.parametrize(
    ("shell", "start"),
    [
        (["bash", "--norc", "-i"], 'eval "$(clipcanvas --show-completion)"'),
        (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -u -D; eval "$(clipcanvas --show-completion)"'),
    ],
    ids=["bash", "zsh"],
)
def test_the_tab_key_completes(shell: list[str], start: str) -> None:
    needs(shell[0])
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        shell, stdin=theirs, stdout=theirs, stderr=theirs, env=at_hand(), start_new_session=True
    )
    os.close(theirs)
    os.write(ours, f"{start}\nclipcanvas jobs ca\t --help\nexit\n".encode())
    shown = b""
    with contextlib.suppress(OSError):  # nobody holds the other end any more
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    process.wait(30)
    assert "Usage: clipcanvas jobs cancel" in shown.decode()


def test_fish_completes() -> None:
    needs("fish")
    script = 'clipcanvas --show-completion | source; complete -C "clipcanvas jobs ca"'
    answer = subprocess.run(["fish", "-c", script], env=at_hand(), capture_output=True, text=True)
    assert answer.stdout.startswith("cancel"), answer


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


def at_hand() -> dict[str, str]:
    """The environment of a shell that finds the command."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TERM": "dumb"}
