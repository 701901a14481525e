"""Slots for event streams: how many of one caller may be open."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.http.errors import Answer, HttpProblem
from app.metrics import Metrics


class TooManyStreams(HttpProblem):
    """The caller has as many open event streams as are allowed."""

    answer = Answer(429, "too_many_streams", "Too many event streams are open", 5)


class StreamSlots:
    """Counts the open streams of each caller, in this process."""

    def __init__(self, per_caller: int, metrics: Metrics) -> None:
        self._per_caller = per_caller
        self._open: Counter[str] = Counter()
        self._metrics = metrics

    def check(self, caller: str) -> None:
        """Raises TooManyStreams if one more is too many."""
        if self._open[caller] >= self._per_caller:
            raise TooManyStreams(
                f"{self._per_caller} event streams are open already; no caller may have more"
            )

    @contextmanager
    def open(self, caller: str) -> Iterator[None]:
        """A stream, for as long as this lasts."""
        self._open[caller] += 1
        self._metrics.streams.inc()
        try:
            yield
        finally:
            self._metrics.streams.dec()
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]
