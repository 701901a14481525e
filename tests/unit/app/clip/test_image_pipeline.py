"""Pictures are read and encoded once, in parts as they are ready, and nobody's failure is another's."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
import pytest

from app.clip.batcher import Batcher, BatchLimits, Device
from app.clip.image_pipeline import EmbeddedImage, EmbeddingCache, ImagePipeline
from app.http.errors import Overloaded
from app.http.image_input import ImageRefused, Source
from jobs import images
from models.clip import Embeddings, Pixels


class Desk:
    """Reads files of digits and "encodes" them as that number; both can be held, and both are counted."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.encoded: list[list[int]] = []
        self.may_read, self.may_encode = threading.Event(), threading.Event()
        self.may_read.set()
        self.may_encode.set()

    def prepare(self, data: bytes) -> Pixels:
        self.read.append(data)
        assert self.may_read.wait(5)
        if not data.isdigit():
            raise images.ImageRefused("no picture")
        return np.full((3, 1, 1), int(data), np.uint8)

    def encode(self, batch: list[Pixels]) -> list[Embeddings]:
        self.encoded.append([int(pixels[0, 0, 0]) for pixels in batch])
        assert self.may_encode.wait(5)
        return [pixels[:, 0, 0].astype(np.float32) for pixels in batch]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@asynccontextmanager
async def pipeline(
    desk: Desk, *, threads: int = 4, cache_rows: int = 0, max_reserved: int = 100
) -> AsyncIterator[ImagePipeline]:
    device, pool = Device(), ThreadPoolExecutor(threads)
    batcher = Batcher(desk.encode, device, BatchLimits(max_batch=8, max_reserved=max_reserved))
    async with batcher:
        yield ImagePipeline(batcher, desk.prepare, pool, 8, EmbeddingCache(cache_rows))
    device.close()
    pool.shutdown(wait=False)


def sources(*files: str) -> list[Source]:
    return [Source(file.encode(), f"#/images/{index}") for index, file in enumerate(files)]


def numbers(seen: list[EmbeddedImage]) -> list[int]:
    return [int(one.row[0]) for one in seen]


async def soon(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110  # threads tell no event of a loop
            await asyncio.sleep(0.005)


async def test_rows_are_in_order_and_a_lone_picture_is_its_own(desk: Desk) -> None:
    async with pipeline(desk) as pictures:
        assert numbers(await pictures.embed(sources(*map(str, range(30))))) == [*range(30)]
        assert numbers(await pictures.embed(sources("7"))) == [7]


async def test_a_picture_is_encoded_while_the_next_is_read() -> None:
    class Patient(Desk):
        encoding = threading.Event()

        def prepare(self, data: bytes) -> Pixels:
            if data == b"3":
                assert self.encoding.wait(5), "nothing is encoded before all are read"
            return super().prepare(data)

        def encode(self, batch: list[Pixels]) -> list[Embeddings]:
            self.encoding.set()
            return super().encode(batch)

    async with pipeline(Patient(), threads=1) as pictures:
        assert numbers(await pictures.embed(sources("1", "2", "3"))) == [1, 2, 3]


async def test_the_same_file_at_once_is_read_and_encoded_once(desk: Desk) -> None:
    async with pipeline(desk) as pictures:
        desk.may_encode.clear()
        asking = [asyncio.create_task(pictures.embed(sources("5", "5"))) for _ in range(3)]
        await soon(lambda: bool(desk.encoded))
        await asyncio.sleep(0.05)
        desk.may_encode.set()
        assert [numbers(seen) for seen in await asyncio.gather(*asking)] == [[5, 5]] * 3
        assert (desk.read, desk.encoded) == ([b"5"], [[5]])
        await pictures.embed(sources("5"))
        assert len(desk.encoded) == 2, "nothing is kept unless that is asked for"


async def test_rows_are_kept_by_their_file_if_that_is_asked_for(desk: Desk) -> None:
    async with pipeline(desk, cache_rows=2) as pictures:
        for _ in range(2):
            assert numbers(await pictures.embed(sources("5", "6"))) == [5, 6]
        assert sorted(desk.read) == [b"5", b"6"]


async def test_a_caller_who_leaves_takes_nothing_from_who_waits_for_the_same(desk: Desk) -> None:
    async with pipeline(desk) as pictures:
        desk.may_read.clear()
        first = asyncio.create_task(pictures.embed(sources("5")))
        await soon(lambda: bool(desk.read))
        second = asyncio.create_task(pictures.embed(sources("5")))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.sleep(0.05)
        desk.may_read.set()
        assert numbers(await second) == [5]
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_what_all_have_left_never_reaches_the_device(desk: Desk) -> None:
    async with pipeline(desk) as pictures:
        desk.may_read.clear()
        asking = [asyncio.create_task(pictures.embed(sources("5", "6"))) for _ in range(2)]
        await soon(lambda: len(desk.read) == 2)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        desk.may_read.set()
        assert numbers(await pictures.embed(sources("7"))) == [7]
        assert desk.encoded == [[7]]


async def test_every_refused_picture_is_told_with_its_own_place(desk: Desk) -> None:
    async with pipeline(desk) as pictures:
        asking = pictures.embed(sources("1", "x", "x", "2")), pictures.embed(sources("x"))
        many, one = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(many, ImageRefused)
        assert isinstance(one, ImageRefused)
        assert [fault.pointer for fault in many.faults] == ["#/images/1", "#/images/2"]
        assert [fault.pointer for fault in one.faults] == ["#/images/0"]
        assert numbers(await pictures.embed(sources("3"))) == [3]


async def test_a_large_request_leaves_threads_to_a_small_one(desk: Desk) -> None:
    async with pipeline(desk, threads=1) as pictures:
        desk.may_read.clear()
        large = asyncio.create_task(pictures.embed(sources(*map(str, range(60)))))
        await soon(lambda: bool(desk.read))
        small = asyncio.create_task(pictures.embed(sources("99")))
        await asyncio.sleep(0.05)
        desk.may_read.set()
        assert numbers(await small) == [99]
        assert desk.read.index(b"99") <= 16
        await large


async def test_more_than_the_places_is_refused(desk: Desk) -> None:
    async with pipeline(desk, max_reserved=3) as pictures:
        with pytest.raises(Overloaded):
            await pictures.embed(sources("1", "2", "3", "4"))
        assert numbers(await pictures.embed(sources("1", "2", "3"))) == [1, 2, 3]
