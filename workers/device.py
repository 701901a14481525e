"""What torch's errors say of the device. A worker that draws without torch need not load it for this."""

import gc
import sys


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
