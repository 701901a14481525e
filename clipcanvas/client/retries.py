"""How often a request is sent again, and after which pauses."""

import random

import httpx

from clipcanvas.client.errors import ApiError, ClipcanvasError, Unreachable

FIRST_PAUSE_S = 0.5  # before the first retry; each next one waits twice as long


class Attempts:
    """The attempts of one request.

    Args:
        retries: how many are left after the first.
        max_pause_s: longest pause; a service that asks for more is not asked again.
    """

    def __init__(self, url: str, retries: int, max_pause_s: float) -> None:
        self._url = url
        self._left = retries
        self._pause_s = FIRST_PAUSE_S
        self._max_pause_s = max_pause_s

    def pause_after(self, error: httpx.HTTPError | ApiError) -> float:
        """Seconds to wait before the next attempt, no less than the service asked for.

        Raises:
            ClipcanvasError: the error, if there is to be no other attempt.
        """
        told: ClipcanvasError = (
            error if isinstance(error, ApiError) else Unreachable(self._url, _reason(error))
        )
        asked = error.retry_after_s if isinstance(error, ApiError) else None
        hopeless = isinstance(error, ApiError) and not error.retryable
        if hopeless or self._left == 0 or (asked or 0) > self._max_pause_s:
            raise told from (error if told is not error else None)
        self._left -= 1
        pause_s = min(self._pause_s, self._max_pause_s) * random.uniform(0.8, 1.2)  # so that callers spread
        self._pause_s *= 2
        return max(pause_s, asked or 0)


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "it took too long"
    return str(error) or type(error).__name__
