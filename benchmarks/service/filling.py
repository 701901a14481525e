"""The servers that `search` measures: started, filled as by the service or faster, and observed."""

import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import redis
from numpy.typing import NDArray

from storage.collections.collection import QUANTIZATIONS, Collection, Image, Quantization, attributes_of
from storage.collections.vector_sets import VectorSets, _keys
from tests.support.redis_server import RedisServer

CONNECTIONS = 4  # that fill at once
PIECE = 250  # vectors that one of them sends at once
SNAPSHOT_EVERY = 20_000  # vectors
_SECONDS = "bench:seconds"  # key of the time that filling took
Rows = NDArray[np.float32]


@contextmanager
def open_server(folder: Path | None, name: str) -> Iterator[RedisServer]:
    """A server of its own; without a folder nothing of it is kept."""
    with tempfile.TemporaryDirectory(prefix="clipcanvas-") as temporary:
        if folder is None:
            server = RedisServer(Path(temporary))
        else:
            kept = (folder / name).absolute()
            kept.mkdir(parents=True, exist_ok=True)
            # snapshots, not an append-only file: that would link each vector again at every start
            server = RedisServer(kept, {"appendonly": "no", "unixsocket": f"{temporary}/redis.sock"})
        server.start(patience_s=600)
        try:
            yield server
        finally:
            server.stop()


def collection_of(sets: VectorSets, quantization: Quantization, rows: Rows) -> Collection:
    return sets.create(Collection("", "bench", "synthetic", rows.shape[1], quantization=quantization))


def fill_fast(url: str, quantization: Quantization, rows: Rows) -> float:
    """Add what is missing, with a snapshot now and then -> vectors a second, of all runs together.

    The same index as `VectorSets.add` makes, but that candidates are looked for on threads (`CAS`).
    """
    with (
        closing(VectorSets(url, timeout_s=600)) as sets,
        redis.Redis.from_url(url, socket_timeout=3600) as client,
    ):
        collection = collection_of(sets, quantization, rows)
        _, vectors, ids = _keys(collection)
        words = (QUANTIZATIONS[quantization], "EF", collection.ef_construction)

        def add(start: int) -> None:
            with client.pipeline(transaction=False) as pipe:
                for i in range(start, min(start + PIECE, len(rows))):
                    image = attributes_of(Image(str(i), {"n": i % 100}))
                    vector = rows[i].astype("<f4").tobytes()
                    pipe.execute_command(
                        "VADD", vectors, "FP32", vector, i, "CAS", *words, "SETATTR", image, "M", collection.m
                    )
                pipe.execute()

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for start in range(client.zcard(ids), len(rows), SNAPSHOT_EVERY):
                began = time.perf_counter()
                end = min(start + SNAPSHOT_EVERY, len(rows))
                list(pool.map(add, range(start, end, PIECE)))
                client.zadd(ids, {str(i): 0 for i in range(start, end)})
                client.incrbyfloat(_SECONDS, time.perf_counter() - began)
                client.save()  # all of it or none: what is in `ids` is in the vector set
                print(f"{end:,} of {len(rows):,}", file=sys.stderr, flush=True)
        assert client.execute_command("VCARD", vectors) == client.zcard(ids) == len(rows)
        return len(rows) / float(client.get(_SECONDS))


def fill(sets: VectorSets, collection: Collection, rows: Rows, first: int = 0) -> float:
    """As the service does, with ids from `first` -> vectors a second."""
    began = time.perf_counter()
    for start in range(0, len(rows), 100):
        some = rows[start : start + 100]
        ids = range(first + start, first + start + len(some))
        sets.add(collection, [Image(str(i), {"n": i % 100}) for i in ids], some, first + len(rows))
    return len(rows) / (time.perf_counter() - began)


def add_and_remove(sets: VectorSets, collection: Collection, rows: Rows, first: int) -> float:
    """Some more for a while: `fill`, and the same images are gone again -> vectors a second that went in."""
    rate = fill(sets, collection, rows, first)
    for i in range(first, first + len(rows)):
        sets.remove(collection, str(i))
    return rate


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
        return percentiles(self._times)

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            began = time.perf_counter()
            self._client.ping()
            self._times.append(time.perf_counter() - began)


def percentiles(seconds: Sequence[float]) -> dict[int, float]:
    """The median, the 99th and the most, in milliseconds."""
    return {at: float(np.percentile(seconds, at)) * 1000 for at in (50, 99, 100)}
