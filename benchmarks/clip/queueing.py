"""What no service can beat: the times of one that spends nothing but the bare model's time, by simulation."""

import random
from collections.abc import Callable


def ideal_times_s(
    rate: float, batch_s: Callable[[int], float], *, cores: int = 1, most: int = 16, number: int = 50_000
) -> list[float]:
    """How long requests take that come at random, if each free core at once takes all that wait as a batch.

    Args:
        rate: requests a second, at exponentially distributed distances (a Poisson process).
        batch_s: seconds that a core takes for so many, as if the others were not there.
        most: requests in a batch.
        number: of requests.
    """
    rng, now = random.Random(0), 0.0
    arrivals = [now := now + rng.expovariate(rate) for _ in range(number)]
    free, times, done = [0.0] * cores, list[float](), 0
    while done < number:
        core = min(range(cores), key=free.__getitem__)
        begins = max(free[core], arrivals[done])
        batch = [at for at in arrivals[done : done + most] if at <= begins]
        free[core] = begins + batch_s(len(batch))
        times += [free[core] - at for at in batch]
        done += len(batch)
    return times
