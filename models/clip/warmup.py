"""How many items to encode at once: measured when a model is loaded, before anybody waits for it."""

import time
from collections.abc import Callable

_ROUNDS = 3


def best_batch(encode: Callable[[int], object], largest: int, budget_s: float, gain: float = 0.05) -> int:
    """The smallest batch with which items a second come close to the most.

    Sizes are doubled until twice in a row items a second grow by less than `gain`, the memory does not do,
    or the time is over. What is left of the time goes into timing all of them again, in turns, of which the
    fastest counts: machines that others share are slow now and then. A batch larger than the one that is
    found only lets others wait.

    Args:
        encode: encodes so many items.
        largest: size to try.
        budget_s: seconds to take at most, but for the first call.
        gain: share of items a second.
    """
    ends = time.perf_counter() + budget_s
    seconds: dict[int, float] = {}  # the fewest, by size
    best_rate, misses, size = 0.0, 0, 1
    while size <= largest and misses < 2:
        try:
            seconds[size] = _timed(encode, size)
        except RuntimeError:  # torch.OutOfMemoryError is one
            if size == 1:
                raise
            break
        rate = size / seconds[size]
        misses = 0 if rate > best_rate * (1 + gain) else misses + 1
        best_rate = max(best_rate, rate)
        if time.perf_counter() + 2 * seconds[size] > ends:  # the next takes twice as long
            break
        size *= 2
    for _ in range(_ROUNDS - 1):
        if time.perf_counter() + sum(seconds.values()) > ends:
            break
        seconds = {size: min(before, _timed(encode, size)) for size, before in seconds.items()}
    most = max(size / taken for size, taken in seconds.items())
    return next(size for size, taken in seconds.items() if size / taken * (1 + gain) >= most)


def _timed(encode: Callable[[int], object], size: int) -> float:
    began = time.perf_counter()
    encode(size)
    return max(time.perf_counter() - began, 1e-9)
