"""Embeddings that are kept for the next who asks."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from models.clip import Embeddings

Key = TypeVar("Key", bound=Hashable)


class EmbeddingCache(Generic[Key]):
    """The least recently used go first when there are more than `max_rows` rows. Thread-safe."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._rows = 0
        self._entries: OrderedDict[Key, Embeddings] = OrderedDict()  # each (N, D)
        self._lock = threading.Lock()

    def get(self, key: Key) -> Embeddings | None:
        """What was put there, if it is still kept."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: Key, rows: Embeddings) -> None:
        """Keep (N, D) rows."""
        with self._lock:
            self._rows += len(rows) - len(self._entries.pop(key, ()))
            self._entries[key] = rows
            while self._rows > self._max_rows:
                self._rows -= len(self._entries.popitem(last=False)[1])
