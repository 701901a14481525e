"""Files of a drawing are encoded and saved in a thread of their own, in order, while steps go on."""

import contextvars
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")

MOST_WAITING = 8
"""Writes that wait: where the store is slower than the steps, the steps wait for it, not the memory."""


class Writer:
    """Does one write after the other, none after one that failed: a checkpoint tells of those before it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "writer")
        self._context = contextvars.copy_context()  # what log lines say of the job
        self._waiting: deque[Future[Any]] = deque()
        self._error: Exception | None = None

    def add(self, write: Callable[[], T]) -> Future[T]:
        """Write after all that was added before. Waits while too much does."""
        while len(self._waiting) >= MOST_WAITING:
            wait([self._waiting.popleft()])
        future = self._thread.submit(self._context.run, self._write, write)
        self._waiting.append(future)
        return future

    def check(self) -> None:
        """Raise what a write raised."""
        if self._error is not None:
            raise self._error

    def settle(self) -> None:
        """Wait until all is written, and raise what a write raised."""
        wait(self._waiting)
        self.check()

    def close(self) -> None:
        """Wait until all is written, whether it fails or not."""
        self._thread.shutdown()

    def _write(self, write: Callable[[], T]) -> T:
        if self._error is not None:
            raise self._error
        try:
            return write()
        except Exception as error:
            log.warning("not saved", error=type(error).__name__)
            self._error = error
            raise
