"""How well does a collection scale? Vector sets of Redis beside exact numpy and usearch; prints tables.

    python -m benchmarks.service.search --sizes 10000 100000
    python -m benchmarks.service.search --sizes 500000 --folder data/bench    # an hour; it resumes

Real vectors of CLIP lie in clusters, and so do these: each is one of 1,000 centers and noise. A Redis server
of its own holds them, filled and asked by the code that the service uses (`vector_sets.py`), without HTTP.
Callers, Redis and the others share this machine's cores. With `--folder` the index is the same, but filled
faster, on several connections, and kept there: a fill that broke off goes on, and a full one is asked again.
"""

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import redis
import usearch
from numpy.typing import NDArray
from usearch.index import Index

from benchmarks.service.filling import (
    CONNECTIONS,
    Pings,
    add_and_remove,
    collection_of,
    fill,
    fill_fast,
    open_server,
    percentiles,
)
from storage.collections import filter_search
from storage.collections.collection import Quantization, Search
from storage.collections.vector_sets import VectorSets

TOP_K = 10
CENTERS = 1000
MORE = 2000  # vectors that a kept index is given for a while
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
    parser.add_argument("--folder", type=Path, help="fill fast, and keep what is filled")
    parser.add_argument("--only-fill", action="store_true", help="and ask nothing")
    arguments = parser.parse_args()
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"{arguments.dimension} dimensions, {cores} cores, load {load:.1f} before the start, ", end="")
    print(f"numpy {np.__version__}, usearch {usearch.__version__}")
    for size in arguments.sizes:
        data = make(size, arguments.dimension, arguments.noise, arguments.queries)
        for quantization in arguments.quantization:
            with open_server(arguments.folder, f"{size}-{quantization}") as server:
                if arguments.only_fill:
                    print(f"filled with {fill_fast(server.url, quantization, data.rows):,.0f} vectors/s")
                else:
                    kept = arguments.folder is not None
                    measure_redis(
                        server.url, data, quantization, arguments.efforts, arguments.filter_effort, kept=kept
                    )
        if arguments.only_fill:
            continue
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


def measure_redis(
    url: str,
    data: Data,
    quantization: Quantization,
    efforts: Sequence[int],
    filter_effort: int,
    *,
    kept: bool,
) -> None:
    """Fill a vector set, ask it, and delete it.

    Args:
        kept: the server's data are; it may be full already.
    """
    with (
        closing(VectorSets(url, timeout_s=60)) as sets,
        redis.Redis.from_url(url, socket_timeout=3600) as client,
    ):
        filled = ""
        if kept:
            rate = fill_fast(url, quantization, data.rows)
            filled = f"filled with {rate:,.0f} vectors/s on {CONNECTIONS} connections; {MORE:,} more go in: "
        collection = collection_of(sets, quantization, data.rows)
        pings = Pings(client)
        if kept:
            rate = add_and_remove(sets, collection, data.rows[::-1][:MORE], len(data.rows))
        else:
            rate = fill(sets, collection, data.rows)
        ms = pings.stop()
        collection = sets.get("", collection.name)  # which knows how many it has
        filled += (
            f"{rate:,.0f} vectors/s as the service adds them; "
            f"a PING meanwhile: p50 {ms[50]:.1f} ms, p99 {ms[99]:.1f} ms"
        )
        memory = client.info("memory")["used_memory"] / len(data.rows)
        _head(
            f"Redis vector set, {quantization}, {len(data.rows):,} vectors",
            f"{filled}; {memory:,.0f} bytes each",
        )
        for name, (expression, _) in FILTERS.items():
            if expression is not None:
                served = Search(TOP_K, expression, None, filter_effort)

                def ask_as_served(query: Rows, how: Search = served) -> list[int]:
                    [hits] = filter_search.search(sets, collection, query[None], how, most_scanned=200_000)
                    return [int(hit.image.id) for hit in hits]

                _row("as served", name, ask_as_served, data)
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
        pings = Pings(client)
        time.sleep(0.5)
        began = time.perf_counter()
        sets.delete(collection)
        print(f"\nDeleted in {(time.perf_counter() - began) * 1000:.1f} ms; ", end="")
        time.sleep(0.5)
        print(f"a PING meanwhile waited {pings.stop()[100]:.1f} ms at most.")


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
        index.add(np.arange(start, start + len(rows)), rows)
    seconds = time.perf_counter() - began
    _head(
        f"usearch, int8, {len(data.rows):,} vectors",
        f"filled with {len(data.rows) / seconds:,.0f} vectors/s on all cores; "
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
        ms = percentiles(times)
        print(
            f"| {search} | {name} | {statistics.mean(hits):.3f} | {callers} | {len(queries) / seconds:,.0f} "
            f"| {ms[50]:.1f} | {ms[99]:.1f} |"
        )


def _unit(rows: NDArray[np.floating]) -> Rows:  # type: ignore[type-arg]  # of either length
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
