"""A job as an object: `client.create_job("a fox").image()`."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import PrivateAttr

from clipcanvas.client import endpoints, event_stream
from clipcanvas.client.errors import JobCanceled, JobExpired, JobFailed, WaitTimeout
from clipcanvas.client.results import Event, Job
from clipcanvas.client.transport import AsyncTransport, Flow, Sending, Transport

if TYPE_CHECKING:
    from PIL.Image import Image

AnyJob = TypeVar("AnyJob", bound=Job)


class ClientJob(Job):
    """A job at one moment; its methods ask the service that the job came from, and bring newer jobs.

    Errors are those of `Client`.
    """

    _transport: Transport = PrivateAttr()

    @classmethod
    def of(cls, transport: Transport, job: Job) -> "ClientJob":
        """The same job with the methods of this class."""
        known = cls.model_construct(job.model_fields_set, **dict(job))
        known._transport = transport
        return known

    def refresh(self) -> "ClientJob":
        """The job as it is now."""
        return self.of(self._transport, self._transport.send(endpoints.job(self.id)))

    def wait(self, *, timeout_s: float | None = None) -> "ClientJob":
        """The job, once it has succeeded.

        Raises:
            JobFailed, JobCanceled, JobExpired: the job ended otherwise.
            WaitTimeout: the job was not final after `timeout_s` seconds.
        """
        return self.of(
            self._transport, self._transport.run(waiting(self._transport.sending, self.id, timeout_s))
        )

    def events(self, *, after: str | None = None) -> Iterator[Event]:
        """What happens to the job, until it is final; see `Client.events`."""
        return event_stream.follow(self._transport, self.id, after)

    def image(self, index: int = 0, *, timeout_s: float | None = None) -> "Image":
        """An image of the job, which is waited for if need be; `index` says which of several.

        Raises:
            IndexError: the job has no such image.
            JobFailed, JobCanceled, JobExpired, WaitTimeout: as `wait`.
        """
        done = self if self.status == "succeeded" else self.wait(timeout_s=timeout_s)
        return _opened(done.output(done.picture(index).name))

    def output(self, name: str) -> bytes:
        """The bytes of a file that the job made, as `outputs` and previews name it."""
        return self._transport.send(endpoints.output(self.id, name))

    def save(self, path: str | Path, *, image: int = 0) -> Path:
        """Write an image to a file, whole or not at all; the job is waited for if need be."""
        done = self if self.status == "succeeded" else self.wait()
        return write_whole(Path(path), done.output(done.picture(image).name))

    def cancel(self) -> "ClientJob":
        """Stop the job: at once while it is queued, within a step while it runs."""
        return self.of(self._transport, self._transport.send(endpoints.cancel(self.id)))

    def delete(self) -> None:
        """Delete the job, which is final, and its files."""
        self._transport.send(endpoints.delete(self.id))


class AsyncClientJob(Job):
    """`ClientJob` for asyncio: the same arguments and methods, awaited."""

    _transport: AsyncTransport = PrivateAttr()

    @classmethod
    def of(cls, transport: AsyncTransport, job: Job) -> "AsyncClientJob":
        """As `ClientJob.of`."""
        known = cls.model_construct(job.model_fields_set, **dict(job))
        known._transport = transport
        return known

    async def refresh(self) -> "AsyncClientJob":
        """As `ClientJob.refresh`."""
        return self.of(self._transport, await self._transport.send(endpoints.job(self.id)))

    async def wait(self, *, timeout_s: float | None = None) -> "AsyncClientJob":
        """As `ClientJob.wait`."""
        job = await self._transport.run(waiting(self._transport.sending, self.id, timeout_s))
        return self.of(self._transport, job)

    def events(self, *, after: str | None = None) -> AsyncIterator[Event]:
        """As `ClientJob.events`."""
        return event_stream.follow_async(self._transport, self.id, after)

    async def image(self, index: int = 0, *, timeout_s: float | None = None) -> "Image":
        """As `ClientJob.image`."""
        done = self if self.status == "succeeded" else await self.wait(timeout_s=timeout_s)
        return _opened(await done.output(done.picture(index).name))

    async def output(self, name: str) -> bytes:
        """As `ClientJob.output`."""
        return await self._transport.send(endpoints.output(self.id, name))

    async def save(self, path: str | Path, *, image: int = 0) -> Path:
        """As `ClientJob.save`."""
        done = self if self.status == "succeeded" else await self.wait()
        content = await done.output(done.picture(image).name)
        return await asyncio.to_thread(write_whole, Path(path), content)

    async def cancel(self) -> "AsyncClientJob":
        """As `ClientJob.cancel`."""
        return self.of(self._transport, await self._transport.send(endpoints.cancel(self.id)))

    async def delete(self) -> None:
        """As `ClientJob.delete`."""
        await self._transport.send(endpoints.delete(self.id))


class Deadline:
    """When a caller gives up waiting for a job, if ever."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._end = None if timeout_s is None else time.monotonic() + timeout_s

    def next_wait_s(self) -> float:
        """How long the service should hold the next request."""
        longest = endpoints.MAX_WAIT_S
        return longest if self._end is None else max(0.0, min(longest, self._end - time.monotonic()))

    def check(self, job: Job) -> None:
        """Raises WaitTimeout if it is too late."""
        if self._end is not None and self._timeout_s is not None and time.monotonic() >= self._end:
            raise WaitTimeout(job, self._timeout_s)


def waiting(sending: Sending, job_id: str, timeout_s: float | None) -> Flow[Job]:
    """The flow that brings a job once it has succeeded; raises as `ClientJob.wait` does."""
    deadline = Deadline(timeout_s)
    while True:
        job = yield from sending(endpoints.job(job_id, wait_s=deadline.next_wait_s()))
        if job.is_final:
            return successful(job)
        deadline.check(job)


def successful(job: AnyJob) -> AnyJob:
    """The job itself, if it succeeded.

    Raises:
        JobFailed, JobCanceled, JobExpired: it did not.
    """
    errors = {"failed": JobFailed, "canceled": JobCanceled, "expired": JobExpired}
    if job.status in errors:
        raise errors[job.status](job)
    return job


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file so that whoever looks sees all of it, or what was there before."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    return part.replace(path)


def _opened(content: bytes) -> "Image":
    from PIL import Image  # only callers who want one need it

    image = Image.open(BytesIO(content))
    image.load()
    return image
