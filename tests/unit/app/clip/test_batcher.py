"""The batcher shares calls, keeps results apart, bounds what waits, and lets no item harm another."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest

from app.clip.batcher import Batcher, BatchLimits, Device
from app.http.errors import Overloaded


class Doubler:
    """Doubles numbers; refuses batches with a 13; can be held."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        self.free.wait(5)
        if 13 in items:
            raise ValueError("13 is not liked")
        return [2 * item for item in items]


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


@pytest.fixture
async def device() -> AsyncIterator[Device]:
    device = Device()
    yield device
    device.close()


def batcher(
    doubler: Doubler, device: Device, max_batch: int = 8, max_reserved: int = 100
) -> Batcher[int, int]:
    return Batcher(doubler, device, BatchLimits(max_batch=max_batch, max_reserved=max_reserved))


async def submit(batcher: Batcher[int, int], *items: int) -> list[int]:
    with batcher.reserve(len(items)) as reservation:
        return (await batcher.submit(items, reservation)).results


async def test_a_lone_caller_is_served_at_once(doubler: Doubler, device: Device) -> None:
    async with batcher(doubler, device) as doubling:
        assert await submit(doubling, 1, 2, 3) == [2, 4, 6]
        assert await submit(doubling) == []
    assert doubler.batches == [[1, 2, 3]]


async def test_threads_of_a_device_take_a_batch_each_and_share_the_cores(doubler: Doubler) -> None:
    shares: list[int] = []
    device = Device(4, shares.append)
    async with Batcher(doubler, device, BatchLimits(max_batch=2, max_reserved=100, at_once=9)) as doubling:
        doubler.free.clear()
        running = []
        for number in range(4):
            running.append(asyncio.create_task(submit(doubling, number)))
            await asyncio.sleep(0.05)
        waiting = asyncio.create_task(submit(doubling, 4, 5))
        await asyncio.sleep(0.05)
        assert doubler.batches == [[0], [1], [2], [3]]
        doubler.free.set()
        assert await asyncio.gather(*running, waiting) == [[0], [2], [4], [6], [8, 10]]
    assert shares[:4] == [4, 2, 1, 1]
    device.close()


async def test_a_batch_that_is_alone_has_no_more_cores_than_it_makes_use_of(doubler: Doubler) -> None:
    shares: list[int] = []
    device = Device(4, shares.append)
    for most in (None, 1):
        async with Batcher(
            doubler, device, BatchLimits(max_batch=2, max_reserved=100, max_cores=most)
        ) as doubling:
            await submit(doubling, 1)
    assert shares == [4, 1]
    device.close()


async def test_what_comes_while_the_device_is_busy_shares_the_next_batch(
    doubler: Doubler, device: Device
) -> None:
    async with batcher(doubler, device) as doubling:
        doubler.free.clear()
        first = asyncio.create_task(submit(doubling, 0))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(submit(doubling, number)) for number in range(1, 6)]
        await asyncio.sleep(0.05)
        doubler.free.set()
        assert await asyncio.gather(first, *others) == [[0], [2], [4], [6], [8], [10]]
    assert doubler.batches == [[0], [1, 2, 3, 4, 5]]


async def test_callers_who_come_back_one_by_one_share_batches_again(doubler: Doubler) -> None:
    device = Device(threads=2)
    batching = Batcher(doubler, device, BatchLimits(max_batch=8, max_reserved=100, at_once=2))
    doubler.free.clear()
    async with batching:
        both = [asyncio.create_task(submit(batching, number)) for number in range(6)]
        await asyncio.sleep(1)  # a batch that takes so long
        doubler.free.set()

        async def come_back(number: int, after_s: float) -> list[int]:
            await both[number]
            await asyncio.sleep(after_s)
            return await submit(batching, number)

        answers = await asyncio.gather(*(come_back(number, 0.004 * number) for number in range(6)))
        assert answers == [[2 * number] for number in range(6)]
        assert sorted(map(sorted, doubler.batches[-2:])) == [[0, 1, 2], [3, 4, 5]]  # one of each thread
        doubler.batches.clear()
        await asyncio.sleep(0.4)  # nobody came: the next caller is alone, and waits for no one
        assert await submit(batching, 7) == [14]
    device.close()


@pytest.mark.parametrize("prepares", [True, False])
async def test_while_its_cores_make_items_ready_a_batch_waits_for_them(
    doubler: Doubler, prepares: bool
) -> None:
    device = Device(prepares=prepares)
    async with batcher(doubler, device) as doubling:
        doubler.free.clear()
        slow = asyncio.create_task(submit(doubling, 0))
        await asyncio.sleep(0.5)  # an item takes so long: a full batch would take eight times as much
        doubler.free.set()
        await slow
        await asyncio.sleep(0.2)  # its caller does not come back
        doubler.batches.clear()

        async def prepare(number: int, after_s: float) -> list[int]:
            with doubling.reserve(1) as reservation:
                with doubling.preparing():
                    await asyncio.sleep(after_s)
                return (await doubling.submit([number], reservation)).results

        assert await asyncio.gather(prepare(1, 0), prepare(2, 0.05), prepare(3, 0.1)) == [[2], [4], [6]]
        if not prepares:
            assert doubler.batches[0] == [1]
            return
        assert doubler.batches == [[1, 2, 3]]

        async def fail() -> None:
            with suppress(ValueError), doubling.preparing():
                await asyncio.sleep(0.05)
                raise ValueError("no picture")

        assert await asyncio.gather(fail(), submit(doubling, 4)) == [None, [8]]
        with doubling.preparing():  # for ever
            assert await asyncio.wait_for(submit(doubling, 5), 10) == [10]
    device.close()


async def test_no_batch_is_larger_than_allowed_and_order_is_kept(doubler: Doubler, device: Device) -> None:
    async with batcher(doubler, device, max_batch=4) as doubling:
        assert await submit(doubling, *range(10)) == [2 * number for number in range(10)]
    assert [len(batch) for batch in doubler.batches] == [4, 4, 2]


@pytest.mark.parametrize(("prepares", "sizes"), [(True, [16, 8, 6]), (False, [16, 14])])
async def test_on_a_cpu_more_than_eight_items_are_a_multiple_of_eight(
    doubler: Doubler, prepares: bool, sizes: list[int]
) -> None:
    device = Device(prepares=prepares)
    async with batcher(doubler, device, max_batch=16) as doubling:
        assert await submit(doubling, *range(100, 130)) == [2 * number for number in range(100, 130)]
    assert [len(batch) for batch in doubler.batches] == sizes
    device.close()


async def test_a_small_request_does_not_wait_behind_a_large_one(doubler: Doubler, device: Device) -> None:
    async with batcher(doubler, device, max_batch=4) as doubling:
        large = asyncio.create_task(submit(doubling, *range(20, 60)))
        small = asyncio.create_task(submit(doubling, 1))
        assert await small == [2]
        assert not large.done()
        assert await large == [2 * number for number in range(20, 60)]


async def test_a_request_in_many_calls_has_no_more_turns_than_one(doubler: Doubler, device: Device) -> None:
    async with batcher(doubler, device, max_batch=2) as doubling:
        doubler.free.clear()
        with doubling.reserve(10) as large, doubling.reserve(4) as small:
            calls = [asyncio.create_task(doubling.submit([n], large)) for n in range(20, 30)]
            await asyncio.sleep(0.02)
            calls += [asyncio.create_task(doubling.submit([n], small)) for n in range(4)]
            await asyncio.sleep(0.02)
            doubler.free.set()
            done = await asyncio.gather(*calls)
        assert [one.results for one in done] == [[2 * n] for n in (*range(20, 30), *range(4))]
    taken = [number for batch in doubler.batches for number in batch]
    assert [number for number in taken[:10] if number < 20] == [0, 1, 2, 3]


async def test_only_the_caller_of_the_faulty_item_gets_the_error(doubler: Doubler, device: Device) -> None:
    async with batcher(doubler, device) as doubling:
        outcomes = await asyncio.gather(
            *(submit(doubling, number, number + 100) for number in (11, 12, 13, 14)), return_exceptions=True
        )
        assert [outcomes[0], outcomes[1], outcomes[3]] == [[22, 222], [24, 224], [28, 228]]
        assert isinstance(outcomes[2], ValueError)
        assert await submit(doubling, 5) == [10], "the batcher goes on"


async def test_a_wrong_number_of_results_is_an_error_not_a_mix_up(device: Device) -> None:
    async with Batcher[int, int](
        lambda items: items[1:], device, BatchLimits(max_batch=8, max_reserved=8)
    ) as broken:
        with pytest.raises(RuntimeError, match="0 results for 1 items"):
            await submit(broken, 1, 2)


async def test_more_than_the_places_is_refused_whole(doubler: Doubler, device: Device) -> None:
    async with batcher(doubler, device, max_reserved=4) as doubling:
        doubler.free.clear()
        waiting = asyncio.create_task(submit(doubling, 1, 2, 3))
        await asyncio.sleep(0.02)
        with pytest.raises(Overloaded, match="3 of 4"):
            await submit(doubling, 4, 5)
        last = asyncio.create_task(submit(doubling, 6))
        await asyncio.sleep(0.02)
        doubler.free.set()
        assert await waiting == [2, 4, 6]
        assert await last == [12]
        assert await submit(doubling, 1, 2, 3, 4) == [2, 4, 6, 8], "places come back"


async def test_callers_that_left_never_reach_the_device(doubler: Doubler, device: Device) -> None:
    async with batcher(doubler, device) as doubling:
        doubler.free.clear()
        first = asyncio.create_task(submit(doubling, 0))
        await asyncio.sleep(0.05)
        leaving = asyncio.create_task(submit(doubling, 1, 2))
        staying = asyncio.create_task(submit(doubling, 3))
        await asyncio.sleep(0.05)
        leaving.cancel()
        await asyncio.sleep(0)
        doubler.free.set()
        assert await first == [0]
        assert await staying == [6]
        with pytest.raises(asyncio.CancelledError):
            await leaving
        with doubling.reserve(100):
            pass
    assert doubler.batches == [[0], [3]]


async def test_two_batchers_take_turns_on_one_device(device: Device) -> None:
    order: list[str] = []

    def work(name: str, items: list[int]) -> list[int]:
        order.append(name)
        return items

    async with (
        Batcher[int, int](
            lambda items: work("a", items), device, BatchLimits(max_batch=1, max_reserved=9)
        ) as a,
        Batcher[int, int](
            lambda items: work("b", items), device, BatchLimits(max_batch=1, max_reserved=9)
        ) as b,
    ):
        await asyncio.gather(submit(a, 1, 2, 3), submit(b, 1, 2, 3))
    assert "".join(order) == "ababab"


async def test_closing_ends_those_that_wait(doubler: Doubler, device: Device) -> None:
    async with batcher(doubler, device) as doubling:
        doubler.free.clear()
        tasks = [asyncio.create_task(submit(doubling, number)) for number in range(3)]
        await asyncio.sleep(0.05)
    doubler.free.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)


async def test_it_tells_how_long_a_caller_waited(doubler: Doubler, device: Device) -> None:
    async with batcher(doubler, device) as doubling:
        doubler.free.clear()
        with doubling.reserve(1) as one, doubling.reserve(1) as other:
            first = asyncio.create_task(doubling.submit([1], one))
            await asyncio.sleep(0.02)
            second = asyncio.create_task(doubling.submit([2], other))
            await asyncio.sleep(0.1)
            doubler.free.set()
            assert (await first).run_s >= 0.1
            assert (await second).queue_s >= 0.08


async def test_what_would_take_too_long_is_refused_but_no_small_request_for_a_large_one(
    device: Device,
) -> None:
    def work(items: list[int]) -> list[int]:
        time.sleep(0.05 * len(items))
        return items

    async with Batcher[int, int](
        work, device, BatchLimits(max_batch=2, max_reserved=1000, max_wait_s=0.6)
    ) as slow:
        for number in range(8):  # it learns how fast it goes
            await submit(slow, number)
        large = asyncio.create_task(submit(slow, *range(20)))
        await asyncio.sleep(0.02)
        small = asyncio.create_task(submit(slow, 1))
        with pytest.raises(Overloaded, match="the wait would be about"):
            await submit(slow, *range(20))
        assert await small == [1]
        large.cancel()
