"""How well does a collection scale? Vector sets of Redis beside exact numpy and usearch; prints tables.

    python -m benchmarks.search --sizes 10000 100000

Real vectors of CLIP lie in clusters, and so do these: each is one of 1,000 centers and noise. A Redis server
of its own holds them, filled and asked by the code that the service uses (`jobs/vectors.py`), without HTTP.
Callers, Redis and the others share this machine's cores.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import redis
import usearch
from numpy.typing import NDArray
from usearch.index import Index

from jobs.collection import Collection, Image, Quantization, Search
from jobs.vectors import VectorSets
from tests.conftest import RedisServer

TOP_K = 10
CENTERS = 1000
FILTERS: dict[str, tuple[str | None, float]] = {
    "none": (None, 1.0),
    "1 in 10": (".n < 10", 0.1),
    "1 in 100": (".n == 7", 0.01),
}
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Data:
    """What is looked for in what, and what is right."""

    rows: Rows  # (N, D)
    queries: Rows  # (Q, D)
    nearest: dict[str, NDArray[np.intp]]  # by filter: (Q, 10)


def main() -> None:
    """Measure every size, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--noise", type=float, default=0.8, help="length of the noise; that of a center is 1")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--quantization", choices=["q8", "none", "binary"], nargs="+", default=["q8"])
    parser.add_argument("--efforts", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--filter-effort", type=int, default=20_000)
    arguments = parser.parse_args()
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"{arguments.dimension} dimensions, {cores} cores, load {load:.1f} before the start, ", end="")
    print(f"numpy {np.__version__}, usearch {usearch.__version__}")
    for size in arguments.sizes:
        data = make(size, arguments.dimension, arguments.noise, arguments.queries)
        for quantization in arguments.quantization:
            measure_redis(data, quantization, arguments.efforts, arguments.filter_effort)
        measure_usearch(data, arguments.efforts)
        measure_numpy(data)
        sys.stdout.flush()


def make(size: int, dimension: int, noise: float, queries: int) -> Data:
    """Vectors in clusters, queries like them, and the nearest of each query by looking at all."""
    rng = np.random.default_rng(0)
    centers = _unit(rng.normal(size=(CENTERS, dimension)))

    def draw(count: int) -> Rows:
        rows = np.empty((count, dimension), np.float32)
        for start in range(0, count, 10_000):  # in pieces: doubles of all would fill the memory
            end = min(start + 10_000, count)
            rows[start:end] = _unit(
                centers[rng.integers(CENTERS, size=end - start)]
                + noise * _unit(rng.normal(size=(end - start, dimension)))
            )
        return rows

    rows, asked = draw(size), draw(queries)
    nearest = {}
    n = np.arange(size) % 100
    for name, (_, share) in FILTERS.items():
        passing = np.flatnonzero((n < 100 * share) if share > 0.01 else (n == 7))
        best = np.empty((queries, TOP_K), np.intp)
        for start in range(0, queries, 50):
            cosines = (
                asked[start : start + 50] @ rows[passing].T
                if share < 1
                else asked[start : start + 50] @ rows.T
            )
            part = np.argpartition(-cosines, TOP_K, axis=1)[:, :TOP_K]
            best[start : start + 50] = passing[part]
        nearest[name] = best
    return Data(rows, asked, nearest)


def measure_redis(data: Data, quantization: Quantization, efforts: Sequence[int], filter_effort: int) -> None:
    """Fill a vector set, and ask it."""
    with tempfile.TemporaryDirectory(prefix="clipcanvas-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            sets = VectorSets(server.url, timeout_s=60)
            collection = sets.create(
                Collection("", "bench", "synthetic", data.rows.shape[1], quantization=quantization)
            )
            with redis.Redis.from_url(server.url) as client:
                empty = client.info("memory")["used_memory"]
                pings = Pings(client)
                seconds = _fill(sets, collection, data.rows)
                ping_ms = pings.stop()
                memory = (client.info("memory")["used_memory"] - empty) / len(data.rows)
            _head(
                f"Redis vector set, {quantization}, {len(data.rows):,} vectors",
                f"filled with {len(data.rows) / seconds:,.0f} vectors/s; {memory:,.0f} bytes each; "
                f"a PING meanwhile: p50 {ping_ms[50]:.1f} ms, p99 {ping_ms[99]:.1f} ms",
            )
            for name, (expression, _) in FILTERS.items():
                for effort in efforts:
                    how = Search(TOP_K, expression, effort, filter_effort if expression else None)

                    def ask(query: Rows, how: Search = how) -> list[int]:
                        [hits] = sets.search(collection, query[None], how)
                        return [int(hit.image.id) for hit in hits]

                    _row(f"effort {effort}", name, ask, data)
                if expression is None:
                    exact = Search(TOP_K, exact=True)  # of what is kept: quantized
                    _row(
                        "exact",
                        name,
                        lambda query, how=exact: [
                            int(hit.image.id) for hit in sets.search(collection, query[None], how)[0]
                        ],
                        data,
                        most=50,
                    )
            began = time.perf_counter()
            sets.delete(collection)
            print(f"\nDeleted in {(time.perf_counter() - began) * 1000:.1f} ms.")
            sets.close()
        finally:
            server.stop()


def measure_usearch(data: Data, efforts: Sequence[int]) -> None:
    """The same numbers in an index of usearch, in this process."""
    index = Index(
        ndim=data.rows.shape[1],
        metric="cos",
        dtype="i8",
        connectivity=16,
        expansion_add=200,
        expansion_search=100,
    )
    began = time.perf_counter()
    for start in range(0, len(data.rows), 10_000):
        rows = data.rows[start : start + 10_000]
        index.add(np.arange(start, start + len(rows)), rows, threads=1)
    seconds = time.perf_counter() - began
    _head(
        f"usearch, int8, {len(data.rows):,} vectors",
        f"filled with {len(data.rows) / seconds:,.0f} vectors/s on one thread; "
        f"{index.memory_usage / len(data.rows):,.0f} bytes each",
    )
    for effort in efforts:
        index.expansion_search = effort
        _row(
            f"effort {effort}",
            "none",
            lambda query: index.search(query, TOP_K, threads=1).keys.tolist(),
            data,
        )


def measure_numpy(data: Data) -> None:
    """All of them, one product of a matrix and a vector."""
    _head(f"numpy, float32, {len(data.rows):,} vectors", f"{data.rows.shape[1] * 4:,} bytes each")

    def ask(query: Rows) -> list[int]:
        return np.argpartition(-(data.rows @ query), TOP_K)[:TOP_K].tolist()  # type: ignore[no-any-return]

    _row("exact", "none", ask, data, most=50)


class Pings:
    """Asks a server for a PING again and again: how long others wait while it is filled."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._times: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> dict[int, float]:
        """Percentiles in milliseconds."""
        self._stop.set()
        self._thread.join()
        return _percentiles(self._times)

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            began = time.perf_counter()
            self._client.ping()
            self._times.append(time.perf_counter() - began)


def _fill(sets: VectorSets, collection: Collection, rows: Rows) -> float:
    began = time.perf_counter()
    for start in range(0, len(rows), 100):
        some = rows[start : start + 100]
        images = [Image(str(start + i), {"n": (start + i) % 100}) for i in range(len(some))]
        sets.add(collection, images, some, len(rows))
    return time.perf_counter() - began


def _head(title: str, line: str) -> None:
    print(f"\n**{title}**: {line}.\n")
    print("| Search | Filter | Recall@10 | Callers | Searches/s | p50 ms | p99 ms |")
    print("| --- | --- " + "| ---: " * 5 + "|")


def _row(search: str, name: str, ask: Callable[[Rows], list[int]], data: Data, most: int = 10_000) -> None:
    queries = data.queries[:most]
    found = [ask(query) for query in queries[:20]]  # warm
    for callers in (1, 16):
        order = list(range(len(queries)))
        random.Random(callers).shuffle(order)
        times: list[float] = []
        found = [[]] * len(queries)

        def one(i: int, found: list[list[int]] = found, times: list[float] = times) -> None:
            began = time.perf_counter()
            found[i] = ask(queries[i])
            times.append(time.perf_counter() - began)

        began = time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(one, order))
        seconds = time.perf_counter() - began
        hits = [
            len({*mine} & {*best.tolist()}) / TOP_K
            for mine, best in zip(found, data.nearest[name], strict=False)
        ]
        ms = _percentiles(times)
        print(
            f"| {search} | {name} | {statistics.mean(hits):.3f} | {callers} | {len(queries) / seconds:,.0f} "
            f"| {ms[50]:.1f} | {ms[99]:.1f} |"
        )


def _percentiles(seconds: Sequence[float]) -> dict[int, float]:
    return {at: float(np.percentile(seconds, at)) * 1000 for at in (50, 99)}


def _unit(rows: NDArray[np.floating]) -> Rows:  # type: ignore[type-arg]  # of either length
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
