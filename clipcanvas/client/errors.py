"""Everything that a call of the client can raise.

ClipcanvasError
├── Unreachable          no answer came: refused, cut, or too late
├── ApiError             the service answered with a problem (RFC 9457)
├── JobUnsuccessful      the job ended without an image
│   ├── JobFailed
│   ├── JobCanceled
│   └── JobExpired
└── WaitTimeout          the job was not final in time; it goes on (also a TimeoutError)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

    from clipcanvas.client.results import Job


class ClipcanvasError(Exception):
    """Base class of all errors of the client."""


class Unreachable(ClipcanvasError):
    """No answer came from the service."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"no answer from {url}: {reason}")
        self.url = url
        self.reason = reason


class ApiError(ClipcanvasError):
    """The service refused a request.

    Attributes:
        status: the HTTP status.
        code: a stable machine word, such as `too_many_labels`.
        detail: one sentence for people.
        request_id: the id of the request in the service's logs.
        retryable: whether the same request may be answered later.
        retry_after_s: seconds to wait before that, or None if the service gave none.
        errors: what is wrong with which field: `{"pointer", "code", "detail"}` each.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        request_id: str | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
        errors: tuple[dict[str, Any], ...] = (),
    ) -> None:
        super().__init__(f"{detail} ({status} {code})")
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.errors = errors


class JobUnsuccessful(ClipcanvasError):
    """A job ended without images; `job` is the whole job."""

    def __init__(self, job: "Job", message: str) -> None:
        super().__init__(message)
        self.job = job


class JobFailed(JobUnsuccessful):
    """The job failed; `code`, `detail` and `retryable` say why."""

    def __init__(self, job: "Job") -> None:
        error = job.error
        self.code = error.code if error else "unknown"
        self.detail = error.detail if error else "the service did not say why"
        self.retryable = error.retryable if error else False
        super().__init__(job, f"job {job.id} failed: {self.detail} ({self.code})")


class JobCanceled(JobUnsuccessful):
    """Somebody canceled the job."""

    def __init__(self, job: "Job") -> None:
        super().__init__(job, f"job {job.id} was canceled")


class JobExpired(JobUnsuccessful):
    """No worker took the job in time."""

    def __init__(self, job: "Job") -> None:
        super().__init__(job, f"job {job.id} expired before a worker took it")


class WaitTimeout(ClipcanvasError, TimeoutError):
    """The job was not final within the time given. It goes on; `job` is how it was last seen."""

    def __init__(self, job: "Job", timeout_s: float) -> None:
        super().__init__(f"job {job.id} is still {job.status} after {timeout_s:g} s")
        self.job = job


def problem(response: "httpx.Response") -> ApiError:
    """The error of a response whose body has been read."""
    try:
        body = response.json()
        code, detail = str(body["code"]), str(body.get("detail") or body.get("title") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return foreign(response)
    return ApiError(
        response.status_code,
        code,
        detail,
        request_id=body.get("request_id"),
        retryable=bool(body.get("retryable")),
        retry_after_s=_retry_after(response),
        errors=tuple(body.get("errors") or ()),
    )


def foreign(response: "httpx.Response") -> ApiError:
    """The error of a response that did not come from a Clipcanvas service."""
    # a proxy may have answered for the service, so its 503 is retryable
    return ApiError(
        response.status_code,
        "unexpected_answer",
        f"{response.url.host}:{response.url.port or ''} did not answer as Clipcanvas does "
        f"(HTTP {response.status_code}, {response.headers.get('content-type', 'no content type')})",
        retryable=response.status_code in (429, 502, 503, 504),
        retry_after_s=_retry_after(response),
    )


def _retry_after(response: "httpx.Response") -> float | None:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):  # a date is allowed, but this service sends seconds
        return None
