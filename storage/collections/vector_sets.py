"""Collections of images as vector sets of Redis 8; nothing else knows their keys.

All keys of a collection have the same hash tag, so that a Redis Cluster keeps them on one server; the list of
collections is one more key.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from storage.collections.collection import (
    Collection,
    CollectionFull,
    CollectionMissing,
    FilterRefused,
    Hit,
    Image,
    Search,
    attributes_of,
    from_hash,
    image_of,
    to_hash,
)
from storage.redis import connect_vectors

PREFIX = "clipcanvas:"
# collections                        sorted set of `tenant/name/uid`; one without a record is no collection
# collection:{tenant/name}           hash, the record: what the collection is bound to
# collection:{tenant/name}:vectors   the vector set; its attributes are `attributes_of` an image
# collection:{tenant/name}:ids       sorted set of the ids, all of score 0, so that they are in order

FEW = 4
"""Images that are added in one go: others wait for a few milliseconds each time."""

Rows = NDArray[np.float32]  # (N, D) of unit length


class VectorsUnsupported(RuntimeError):
    """The server has no vector sets."""


class VectorsFull(RuntimeError):
    """The server has no memory left for vectors."""


class VectorsUnavailable(RuntimeError):
    """The server cannot be reached, or cannot be written to."""


class VectorSets:
    """All that is done with collections. Thread-safe; its calls block.

    Every method may raise VectorsUnavailable; those that write, VectorsFull.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        self._redis = connect_vectors(url, timeout_s=timeout_s)

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()

    def ping(self) -> None:
        """Raises VectorsUnavailable if the server does not answer."""
        with _told():
            self._redis.ping()

    def check_room(self, most: float) -> None:
        """Raises VectorsFull: the server uses more than this share of the memory that it may use."""
        with _told():
            memory = self._redis.info("memory")
        share = memory["used_memory"] / memory["maxmemory"] if memory["maxmemory"] else 0.0
        if share >= most:
            raise VectorsFull(f"{share:.0%} of the memory for collections is used; at most {most:.0%} may be")

    def known(self, collection: Collection, ids: Sequence[str]) -> list[bool]:
        """Whether there is an image of each id."""
        with _told():
            return [score is not None for score in self._redis.zmscore(_keys(collection)[2], list(ids))]

    def create(self, new: Collection) -> Collection:
        """The collection of that name: the new one, or the one that was there (it has another `uid`).

        Raises:
            VectorsUnsupported: the server has no vector sets.
        """
        fields = [part for item in to_hash(new).items() for part in item]
        member = _member(new)
        with _told():
            self._redis.execute_command("VCARD", _keys(new)[1])  # is known to servers with vector sets
            # first, so that whoever dies in between leaves a name without a collection, not the reverse
            self._redis.zadd(_ALL, {member: 0})
            answer = self._call(self._redis, new, "create", *fields)
            made = from_hash(dict(zip(answer[::2], answer[1::2], strict=True)))
            if made.uid != new.uid:
                self._redis.zrem(_ALL, member)
        return made

    def get(self, tenant: str, name: str) -> Collection:
        """The collection of that name.

        Raises:
            CollectionMissing: there is none, or it is another tenant's.
        """
        with _told():
            found = self._read([f"{tenant}/{name}"])
        if not found:
            raise CollectionMissing(f"there is no collection {name!r}")
        return found[0]

    def find(self, tenant: str) -> list[Collection]:
        """A tenant's collections, by name."""
        with _told():
            members = self._redis.zrangebylex(_ALL, f"[{tenant}/", f"({tenant}0")  # 0 comes after /
            return self._read(_places(members))

    def folders(self) -> set[str]:
        """The folders in the store that belong to a collection."""
        with _told():
            members = self._redis.zrange(_ALL, 0, -1)
            return {collection.folder for collection in self._read(_places(members))}

    def delete(self, collection: Collection) -> None:
        """Forget it and all of its images. Its folder in the store is the caller's to delete."""
        with _told():
            self._call(self._redis, collection, "delete")
            self._redis.zrem(_ALL, _member(collection))

    def add(self, collection: Collection, images: Sequence[Image], rows: Rows, max_images: int) -> list[bool]:
        """Add images, or replace those whose id is there -> for each whether it is new.

        Each image is one atomic change: what came before an error has been added, and may be added again.

        Raises:
            CollectionMissing: it was deleted meanwhile.
            CollectionFull: `max_images` are there; those before were added.
        """
        outcomes: list[bytes] = []
        with _told(), self._redis.pipeline(transaction=False) as pipe:
            for start in range(0, len(images), FEW):
                some = slice(start, start + FEW)
                for image, row in zip(images[some], rows[some], strict=True):
                    self._call(
                        pipe, collection, "add", max_images, image.id, _blob(row), attributes_of(image)
                    )
                outcomes += pipe.execute()
        for outcome in outcomes:
            _check_there(collection, outcome)
            if outcome == b"full":
                raise CollectionFull(f"the collection holds {max_images} images already")
        return [outcome == b"created" for outcome in outcomes]

    def describe(self, collection: Collection, image: Image) -> bool:
        """Replace all that is kept of an image but its vector; False if there is no image of that id."""
        with _told():
            outcome = self._call(self._redis, collection, "describe", image.id, attributes_of(image))
        return _check_there(collection, outcome) == b"described"

    def remove(self, collection: Collection, image_id: str) -> bool:
        """Forget an image; False if there is none of that id."""
        with _told():
            outcome = self._call(self._redis, collection, "remove", image_id)
        return _check_there(collection, outcome) == b"removed"

    def ids(self, collection: Collection, limit: int, after: str | None = None) -> list[str]:
        """Ids in order of their bytes, from the one after `after`."""
        start = b"-" if after is None else b"(" + after.encode()
        with _told():
            found = self._redis.zrangebylex(_keys(collection)[2], start, "+", start=0, num=limit)
        return [_text(image_id) for image_id in found]

    def images(self, collection: Collection, ids: Sequence[str]) -> list[Image | None]:
        """What is kept of images; None where there is none of that id."""
        with _told(), self._redis.pipeline(transaction=False) as pipe:
            for image_id in ids:
                pipe.execute_command("VGETATTR", _keys(collection)[1], image_id)
            answers = pipe.execute()
        return [
            None if text is None else image_of(image_id, text)
            for image_id, text in zip(ids, answers, strict=True)
        ]

    def vectors(self, collection: Collection, ids: Sequence[str]) -> list[Rows | None]:
        """Each image's vector as it is kept, (D,) of unit length; None where there is none of that id."""
        with _told(), self._redis.pipeline(transaction=False) as pipe:
            for image_id in ids:
                pipe.execute_command("VEMB", _keys(collection)[1], image_id, "RAW")
            return [None if raw is None else _row(raw, collection.dimension) for raw in pipe.execute()]

    def search(self, collection: Collection, queries: Rows, how: Search) -> list[list[Hit]]:
        """The images nearest to each of (Q, D) queries, the nearest first.

        Raises:
            CollectionMissing: it was deleted meanwhile.
            FilterRefused: the filter is no expression.
        """
        words = _search_words(how)
        record, key, _ = _keys(collection)
        with _told(), self._redis.pipeline(transaction=False) as pipe:
            # not in one script: these run beside the server's other work, scripts do not
            for query in queries:
                pipe.execute_command("VSIM", key, "FP32", _blob(query), *words)
            pipe.hget(record, "uid")
            *answers, uid = pipe.execute()
        if _text(uid or b"") != collection.uid:
            raise CollectionMissing(f"the collection {collection.name!r} was deleted")
        return [_hits(answer) for answer in answers]

    def neighbors(
        self, collection: Collection, ids: Sequence[str], min_similarity: float, most: int
    ) -> list[list[tuple[str, float]]]:
        """For each image the others that are at least so near, `most` at most: their ids and cosines."""
        with _told(), self._redis.pipeline(transaction=False) as pipe:
            for image_id in ids:
                words = ("WITHSCORES", "COUNT", most + 1, "EPSILON", f"{(1 - min_similarity) / 2:.9f}")
                pipe.execute_command("VSIM", _keys(collection)[1], "ELE", image_id, *words)
            answers = pipe.execute(raise_on_error=False)  # an id that was removed meanwhile is an error
        near: list[list[tuple[str, float]]] = []
        for image_id, answer in zip(ids, answers, strict=True):
            if isinstance(answer, redis.ResponseError) and "not found" in str(answer):
                answer = []
            elif isinstance(answer, Exception):
                with _told():
                    raise answer
            pairs = (
                (_text(other), _cosine(score)) for other, score in zip(answer[::2], answer[1::2], strict=True)
            )
            near.append([pair for pair in pairs if pair[0] != image_id][:most])
        return near

    def _read(self, places: Sequence[str]) -> list[Collection]:
        with self._redis.pipeline(transaction=False) as pipe:
            for place in places:
                record, _, ids = _keys_at(place)
                pipe.hgetall(record)
                pipe.zcard(ids)
            answers = pipe.execute()
        return [
            from_hash(fields, count)
            for fields, count in zip(answers[::2], answers[1::2], strict=True)
            if fields
        ]

    def _call(self, connection: Any, collection: Collection, name: str, *args: Any) -> Any:
        script = self._redis.register_script(vectors_script())
        return script(keys=_keys(collection), args=[name, collection.uid, *args], client=connection)


_ALL = f"{PREFIX}collections"


def _member(collection: Collection) -> str:
    return f"{collection.tenant}/{collection.name}/{collection.uid}"


def _places(members: Sequence[bytes]) -> list[str]:
    return sorted({_text(member).rpartition("/")[0] for member in members})


def _keys(collection: Collection) -> list[str]:
    return _keys_at(f"{collection.tenant}/{collection.name}")


def _keys_at(place: str) -> list[str]:
    record = f"{PREFIX}collection:{{{place}}}"
    return [record, f"{record}:vectors", f"{record}:ids"]


def _search_words(how: Search) -> list[str | int]:
    words: list[str | int] = ["WITHSCORES", "WITHATTRIBS", "COUNT", how.top_k]
    if how.effort is not None:
        words += ["EF", max(how.effort, how.top_k)]
    if how.filter is not None:
        words += ["FILTER", how.filter]
        if how.filter_effort is not None:
            words += ["FILTER-EF", how.filter_effort]
    return [*words, "TRUTH"] if how.exact else words


def _hits(answer: Sequence[bytes]) -> list[Hit]:
    found = zip(answer[::3], answer[1::3], answer[2::3], strict=True)
    return [
        Hit(image_of(_text(image_id), attributes), _cosine(score)) for image_id, score, attributes in found
    ]


def _cosine(score: bytes) -> float:
    return round(min(1.0, max(-1.0, 2 * float(score) - 1)), 6)


def _blob(row: NDArray[np.floating[Any]]) -> bytes:
    return row.astype("<f4").tobytes()


def _row(raw: Sequence[bytes], dimension: int) -> Rows:
    """A vector out of `VEMB … RAW`: its kind, its bytes, its length and, of int8, the largest value."""
    kind, data = raw[0], raw[1]
    if kind == b"int8":
        row = np.frombuffer(data, np.int8).astype(np.float32) * float(raw[3])
    elif kind == b"bin":
        signs = np.unpackbits(np.frombuffer(data, np.uint8), count=dimension, bitorder="little")
        row = signs.astype(np.float32) * 2 - 1
    else:
        row = np.frombuffer(data, "<f4").astype(np.float32)
    unit: Rows = row / max(float(np.linalg.norm(row)), 1e-12)
    return unit


def _check_there(collection: Collection, outcome: bytes) -> bytes:
    if outcome == b"gone":
        raise CollectionMissing(f"the collection {collection.name!r} was deleted")
    return outcome


def _text(value: bytes) -> str:
    return value.decode()


@contextmanager
def _told() -> Iterator[None]:
    """Errors of Redis in this file's words."""
    try:
        yield
    except redis.OutOfMemoryError as error:
        raise VectorsFull("the server of the collections has no memory left") from error
    except redis.ResponseError as error:
        if re.search("unknown (redis )?command", str(error), re.IGNORECASE):
            raise VectorsUnsupported(
                "collections need vector sets (VADD, VSIM): Redis 8 or newer; the server has none"
            ) from error
        if "syntax error in FILTER" in str(error):
            raise FilterRefused('not an expression such as .year > 1980 and .kind == "cat"') from error
        if str(error).startswith(("MISCONF", "READONLY", "LOADING", "BUSY", "CLUSTERDOWN", "NOREPLICAS")):
            raise VectorsUnavailable("the server of the collections takes no writes now") from error
        raise
    except redis.RedisError as error:
        raise VectorsUnavailable("the server of the collections cannot be reached") from error


@cache
def vectors_script() -> str:
    """The script that changes vector sets."""
    return (files(__package__) / "vectors.lua").read_text(encoding="utf-8")
