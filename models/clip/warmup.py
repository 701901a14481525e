"""How many items to encode at once: measured when a model is loaded, before anybody waits for it."""

import time
from collections.abc import Callable


def best_batch(encode: Callable[[int], object], largest: int, budget_s: float, gain: float = 0.05) -> int:
    """The smallest batch with which items a second come close to the most.

    Sizes are doubled until twice in a row items a second grow by less than `gain`, the memory does not do,
    or the time is over. A batch larger than that only lets others wait.

    Args:
        encode: encodes so many items.
        largest: size to try.
        budget_s: seconds to take at most, but for the first two calls.
        gain: share of items a second.
    """
    ends = time.perf_counter() + budget_s
    best, best_rate, misses, size = 1, 0.0, 0, 1
    while size <= largest and misses < 2:
        try:
            seconds = min(_timed(encode, size) for _ in range(2))
        except RuntimeError:  # torch.OutOfMemoryError is one
            if size == 1:
                raise
            break
        if size / seconds > best_rate * (1 + gain):
            best, best_rate, misses = size, size / seconds, 0
        else:
            misses += 1
        size *= 2
        if time.perf_counter() + 4 * seconds > ends:  # the next takes twice as long, twice
            break
    return best


def _timed(encode: Callable[[int], object], size: int) -> float:
    began = time.perf_counter()
    encode(size)
    return max(time.perf_counter() - began, 1e-9)
