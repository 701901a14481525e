"""The machine: how much of it this process may have, and how it treats memory. Needs no torch."""

import ctypes
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


def cores(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Cores that this process may use: those it is bound to, or the least quota of its control groups."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [float(bound)]
    for group in _groups(cgroups, own):
        try:
            quota, period = (group / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return max(1, round(min(quotas)))


def memory(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Bytes of memory that this process may have: the machine's, or the least limit of its control groups."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    files = [
        *(group / "memory.max" for group in _groups(cgroups, own)),
        cgroups / "memory/memory.limit_in_bytes",
    ]
    for file in files:
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):
            continue
    return min(limits)


def keep_freed_memory(*, one_heap: bool = False) -> None:
    """Let the C library keep what tensors free for the next ones, where it is glibc.

    It would hand blocks of some MiB back to the system, which clears each page anew for every operation: a
    sixth of a drawing's step on a CPU, a third of the time of eight pictures in a convolutional CLIP.

    Args:
        one_heap: for all threads, of those that are yet to start. The heaps of other threads than the first
            are made of pieces, and go back to the system by the piece.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_MMAP_THRESHOLD, 2**30) or mallopt(_M_MMAP_THRESHOLD, 2**25)  # the most that older ones take
    if one_heap:
        mallopt(_M_ARENA_MAX, 1)


def _groups(cgroups: Path, own: Path) -> list[Path]:
    """The folders of version 2's control groups that bound this process: its own, and each above it."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return []
    group = next((Path(line[3:].lstrip("/")) for line in lines if line.startswith("0::")), Path())
    return [cgroups / folder for folder in (group, *group.parents)]
