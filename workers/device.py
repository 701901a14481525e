"""The device: its memory, and what torch's errors say of it. A worker without torch need not load it."""

import ctypes
import gc
import os
import sys
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let the C library keep what tensors free for the next ones, where it is glibc.

    It would hand blocks of some MiB back to the system, which clears each page anew for every operation: a
    sixth of a step on a CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_MMAP_THRESHOLD, 2**30) or mallopt(_M_MMAP_THRESHOLD, 2**25)  # the most that older ones take


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had no room, and is otherwise well."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def is_lost(error: BaseException) -> bool:
    """Whether the device is of no more use to this process: after such an error every call to it fails."""
    torch = sys.modules.get("torch")
    if torch is None or is_out_of_memory(error):
        return False
    kind = getattr(torch, "AcceleratorError", None)  # of torch 2.8 and newer
    return (kind is not None and isinstance(error, kind)) or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )


def free_memory() -> None:
    """Give back what nobody uses any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def memory(name: str) -> int:
    """Bytes of the device of that name; of a CPU, what this process may have.

    Args:
        name: as the setting: auto, cpu, cuda:1 …
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        from models.clip.encoder import pick_device

        device = pick_device(name)
        if device.type == "cuda":
            return int(torch.cuda.mem_get_info(device)[1])
    return host_memory()


def host_memory(cgroups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of memory that this process may have: the machine's, or the least limit of its control groups."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _groups(cgroups, own):
        try:
            limits.append(int(group.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(limits)


def _groups(cgroups: Path, own: Path) -> list[Path]:
    """The files that may hold a limit: version 2 has one for each group above ours, version 1 one in all."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return []
    group = next((Path(line[3:].lstrip("/")) for line in lines if line.startswith("0::")), Path())
    folders = [cgroups / folder for folder in (group, *group.parents)]
    return [*(folder / "memory.max" for folder in folders), cgroups / "memory/memory.limit_in_bytes"]
