"""What a process may have of its machine is the least of what bounds it."""

import os
from pathlib import Path

from models.catalog.memory import GIB
from models.runtime import machine


def test_the_least_of_the_control_groups_limits_counts(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/service/worker\n")
    (tmp_path / "service/worker").mkdir(parents=True)
    whole = machine.memory(tmp_path, own)
    assert whole > GIB // 4, "the machine's own"
    (tmp_path / "service/worker/memory.max").write_text("max\n")
    assert machine.memory(tmp_path, own) == whole
    (tmp_path / "service/memory.max").write_text("123000000\n")
    assert machine.memory(tmp_path, own) == 123_000_000, "a group above ours bounds us, too"
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text("99000000\n")
    assert machine.memory(tmp_path, own) == 99_000_000, "version 1"


def test_the_least_quota_of_the_control_groups_bounds_the_cores(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/service/api\n")
    (tmp_path / "service/api").mkdir(parents=True)
    bound = len(os.sched_getaffinity(0))
    assert machine.cores(tmp_path, own) == bound
    (tmp_path / "service/api/cpu.max").write_text("max 100000\n")
    assert machine.cores(tmp_path, own) == bound
    (tmp_path / "service/cpu.max").write_text("100000 100000\n")
    assert machine.cores(tmp_path, own) == 1
    (tmp_path / "service/cpu.max").write_text("20000 100000\n")
    assert machine.cores(tmp_path, own) == 1, "a fifth of a core is still one to run on"


def test_keeping_freed_memory_does_no_harm() -> None:
    machine.keep_freed_memory()
