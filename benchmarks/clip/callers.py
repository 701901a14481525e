"""HTTP callers in a process of their own, over bare sockets: they cost the machine as little as callers can.

No two requests are alike, so that nothing can be answered from a cache unless a case is about one.
"""

import asyncio
import base64
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from multiprocessing import get_context
from typing import Literal

from benchmarks.service.processes import Server

TIMEOUT_S = 120
IDLE_S = 2  # after which a connection may be closed by the server as it is used


@dataclass(frozen=True)
class Request:
    """A request, with a place for what makes each one another.

    Args:
        kind: what is put between `before` and `after`: the start of a JPEG that holds a number in a comment,
            the same in base64, the number in letters, or nothing.
        items: how many numbers there are in one request, with `joint` between them.
    """

    path: str
    content_type: str
    before: bytes
    kind: Literal["jpeg", "jpeg64", "number", "same"]
    after: bytes
    items: int = 1
    joint: bytes = b""

    def of(self, number: int) -> bytes:
        """The bytes of the request of that number."""
        # 18 bytes: a start of image and a comment of 12 digits; in base64 they stand for themselves
        start = b"\xff\xd8\xff\xfe\x00\x0e%012d" % number
        between = {
            "jpeg": start,
            "jpeg64": base64.b64encode(start),
            "number": self.joint.join(b"%d" % (self.items * number + item) for item in range(self.items)),
            "same": b"",
        }[self.kind]
        length = len(self.before) + len(between) + len(self.after)
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {self.content_type}\r\n"
        head += f"Content-Length: {length}\r\n\r\n"
        return b"".join((head.encode(), self.before, between, self.after))


@dataclass
class Outcome:
    """What came of many requests."""

    seconds: float
    items: int = 1  # of a request
    taken_s: list[float] = field(default_factory=list)  # of those that were answered 200
    refused_s: list[float] = field(default_factory=list)  # of the others
    statuses: Counter[str] = field(default_factory=Counter)
    server_cpu_s: float = 0.0

    @property
    def rate(self) -> float:
        """Requests answered 200, per second."""
        return len(self.taken_s) / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU time of the server for an item that was answered 200."""
        return 1000 * self.server_cpu_s / max(1, self.items * len(self.taken_s))

    def ms(self, percent: int) -> float:
        """A percentile of the times of those answered 200."""
        return percentile_ms(self.taken_s, percent)


def percentile_ms(seconds: list[float], percent: int) -> float:
    """A percentile in milliseconds; not a number of none."""
    if len(seconds) < 2:
        return 1000 * seconds[0] if seconds else float("nan")
    return 1000 * statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]


class Callers:
    """The process of the callers. Use as a context manager.

    Args:
        core: that it runs on; none: any.
    """

    def __init__(self, core: int | None = None) -> None:
        self._cores = os.sched_getaffinity(0) if core is None else {core}

    def __enter__(self) -> "Callers":
        self._process = ProcessPoolExecutor(
            1, get_context("spawn"), initializer=os.sched_setaffinity, initargs=(0, self._cores)
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.shutdown()

    def ask(self, server: Server, request: Request, callers: int, seconds: float) -> Outcome:
        """So many callers, each of which asks again when it has its answer; after a warm-up."""
        self._process.submit(_ask, server.port, request, callers, min(2.0, seconds / 2)).result()
        return self._watch(server, _ask, request, callers, seconds)

    def ask_at(
        self, server: Server, request: Request, rate: float, seconds: float, *, evenly: bool = False
    ) -> Outcome:
        """Requests that come whether or not others are answered, `rate` a second, at random or evenly."""
        return self._watch(server, _ask_evenly if evenly else _ask_at, request, rate, seconds)

    def _watch(
        self, server: Server, ask: Callable[..., Outcome], request: Request, many: float, seconds: float
    ) -> Outcome:
        before = server.cpu_s()
        outcome = self._process.submit(ask, server.port, request, many, seconds).result()
        outcome.server_cpu_s = server.cpu_s() - before
        outcome.items = request.items
        return outcome


_numbers = count(time.time_ns() % 10**9)


def _ask(port: int, request: Request, callers: int, seconds: float) -> Outcome:
    async def caller(outcome: Outcome, end: float) -> None:
        connection = await _Connection.open(port)
        while (began := time.perf_counter()) < end:
            await connection.send(request, began, outcome)
        connection.close()

    async def all_callers() -> Outcome:
        began, outcome = time.perf_counter(), Outcome(0)
        await asyncio.gather(*(caller(outcome, began + seconds) for _ in range(callers)))
        outcome.seconds = time.perf_counter() - began  # until the last has its answer
        return outcome

    return asyncio.run(all_callers())


def _ask_evenly(port: int, request: Request, rate: float, seconds: float) -> Outcome:
    return _ask_at(port, request, rate, seconds, lambda: 1 / rate)


def _ask_at(
    port: int, request: Request, rate: float, seconds: float, distance: Callable[[], float] | None = None
) -> Outcome:
    distance = distance or partial(random.Random(0).expovariate, rate)

    async def one(outcome: Outcome, idle: list["_Connection"]) -> None:
        began = time.perf_counter()
        connection = idle.pop() if idle else await _Connection.open(port)
        if connection.used + IDLE_S < began:
            connection.close()
            connection = await _Connection.open(port)
        await connection.send(request, began, outcome)
        idle.append(connection)

    async def all_requests() -> Outcome:
        outcome, idle = Outcome(0), list[_Connection]()
        began = due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while (due := due + distance()) < began + seconds:
                await asyncio.sleep(due - time.perf_counter())
                group.create_task(one(outcome, idle))
        outcome.seconds = time.perf_counter() - began
        for connection in idle:
            connection.close()
        return outcome

    return asyncio.run(all_requests())


@dataclass
class _Connection:
    port: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: float = field(default_factory=time.perf_counter)  # when it was last

    @classmethod
    async def open(cls, port: int) -> "_Connection":
        return cls(port, *await asyncio.open_connection("127.0.0.1", port, limit=2**22))

    async def send(self, request: Request, began: float, outcome: Outcome) -> None:
        """Ask, wait for the answer, and write down how long it took since `began`."""
        self.writer.write(request.of(next(_numbers)))
        async with asyncio.timeout(TIMEOUT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            await self.reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        self.used = time.perf_counter()
        taken = self.used - began
        status = head[9:12].decode()
        outcome.statuses[status] += 1
        (outcome.taken_s if status == "200" else outcome.refused_s).append(taken)
        if b"connection: close" in head:
            self.close()
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**22)

    def close(self) -> None:
        self.writer.close()
