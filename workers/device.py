"""The device: its memory, and what torch's errors say of it. A worker without torch need not load it."""

import gc
import sys

from models.runtime import machine


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
    return machine.memory()
