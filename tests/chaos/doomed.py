"""A process of the service that kills itself at a chosen point.

    python -m tests.chaos.doomed jobs.record.lease:Lease.finish before 1 workers

The function of that name is wrapped: at its n-th call it ends the process by SIGKILL, before or after
it did its work. All else is the real `python -m workers`.
"""

import functools
import importlib
import inspect
import os
import runpy
import signal
import sys
from typing import Any


def doom(target: str, when: str, count: int) -> None:
    """Arrange for the end."""
    module_name, _, qualified = target.partition(":")
    *path, name = qualified.split(".")
    owner: Any = importlib.import_module(module_name)
    for part in path:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    calls = 0

    @functools.wraps(original)
    def fatal(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    is_static = isinstance(inspect.getattr_static(owner, name), staticmethod)
    setattr(owner, name, staticmethod(fatal) if is_static else fatal)


if __name__ == "__main__":
    target, when, count, *command = sys.argv[1:]
    doom(target, when, int(count))
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
