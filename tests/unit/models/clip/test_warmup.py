"""The batch that is found is the smallest that is about as fast as any."""

import time

import pytest

from models.clip.warmup import best_batch


class Machine:
    """Takes a time for each call and one for each item; has memory for so many items."""

    def __init__(self, call_s: float, item_s: float, memory: int = 10**9) -> None:
        self.call_s, self.item_s, self.memory = call_s, item_s, memory
        self.sizes: list[int] = []

    def __call__(self, size: int) -> None:
        self.sizes.append(size)
        if size > self.memory:
            raise RuntimeError("out of memory")
        time.sleep(self.call_s + size * self.item_s)


def test_where_a_call_costs_nothing_one_is_enough() -> None:
    assert best_batch(Machine(0, 0.02), 64, 10, gain=0.3) == 1


def test_where_calls_are_dear_it_grows_to_the_end() -> None:
    assert best_batch(Machine(0.02, 0), 16, 10) == 16


def test_memory_ends_it() -> None:
    assert best_batch(Machine(0.01, 0, memory=5), 64, 10) == 4
    with pytest.raises(RuntimeError):
        best_batch(Machine(0.01, 0, memory=0), 64, 10)


def test_time_ends_it() -> None:
    machine = Machine(0.05, 0)
    best_batch(machine, 2**20, 0.3)
    assert max(machine.sizes) < 64


def test_a_slow_moment_does_not_decide() -> None:
    class Disturbed(Machine):
        def __call__(self, size: int) -> None:
            super().__call__(size)
            if self.sizes.count(size) == 1 and size > 1:
                time.sleep(0.02 * size)  # others take the machine when each size is first tried

    assert best_batch(Disturbed(0.02, 0.001), 4, 10) == 4
