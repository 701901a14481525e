"""A job as an object: `client.create_job("a fox").image()`."""

from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import PrivateAttr

from clipcanvas.client.results import Event, Job

if TYPE_CHECKING:
    from PIL.Image import Image

    from clipcanvas.client.client import AsyncClient, Client


class ClientJob(Job):
    """A job at one moment, known to the client it came from: the methods ask that one, and bring newer jobs.

    Errors are those of `Client`.
    """

    _client: "Client" = PrivateAttr()

    @classmethod
    def of(cls, client: "Client", job: Job) -> "ClientJob":
        """The same job, known to that client."""
        known = cls.model_construct(job.model_fields_set, **dict(job))
        known._client = client
        return known

    def refresh(self) -> "ClientJob":
        """The job as it is now."""
        return self._client.job(self.id)

    def wait(self, *, timeout_s: float | None = None) -> "ClientJob":
        """The job, once it has succeeded; raises as `Client.wait` does."""
        return self._client.wait(self.id, timeout_s=timeout_s)

    def events(self, *, after: str | None = None) -> Iterator[Event]:
        """What happens to the job, until it is final; see `Client.events`."""
        return self._client.events(self.id, after=after)

    def image(self, index: int = 0, *, timeout_s: float | None = None) -> "Image":
        """A picture of the job, which is waited for if need be; `index` says which of several.

        Raises:
            IndexError: the job has no such picture.
            JobFailed, JobCanceled, JobExpired, WaitTimeout: as `wait`.
        """
        done = self if self.status == "succeeded" else self.wait(timeout_s=timeout_s)
        return _opened(done.output(done.picture(index).name))

    def output(self, name: str) -> bytes:
        """The bytes of a file that the job made, as `outputs` and previews name it."""
        return self._client.output(self.id, name)

    def save(self, path: str | Path, *, image: int = 0) -> Path:
        """Write a picture to a file as `Client.save` does; it is waited for if need be."""
        return self._client.save(self if self.status == "succeeded" else self.wait(), path, image=image)

    def cancel(self) -> "ClientJob":
        """Stop the job: at once while it is queued, within a step while it runs."""
        return self._client.cancel(self.id)

    def delete(self) -> None:
        """Forget the job, which is final, and its files."""
        self._client.delete(self.id)


class AsyncClientJob(Job):
    """`ClientJob` for asyncio: the same arguments and methods, awaited."""

    _client: "AsyncClient" = PrivateAttr()

    @classmethod
    def of(cls, client: "AsyncClient", job: Job) -> "AsyncClientJob":
        """The same job, known to that client."""
        known = cls.model_construct(job.model_fields_set, **dict(job))
        known._client = client
        return known

    async def refresh(self) -> "AsyncClientJob":
        """As `ClientJob.refresh`."""
        return await self._client.job(self.id)

    async def wait(self, *, timeout_s: float | None = None) -> "AsyncClientJob":
        """As `ClientJob.wait`."""
        return await self._client.wait(self.id, timeout_s=timeout_s)

    def events(self, *, after: str | None = None) -> AsyncIterator[Event]:
        """As `ClientJob.events`."""
        return self._client.events(self.id, after=after)

    async def image(self, index: int = 0, *, timeout_s: float | None = None) -> "Image":
        """As `ClientJob.image`."""
        done = self if self.status == "succeeded" else await self.wait(timeout_s=timeout_s)
        return _opened(await done.output(done.picture(index).name))

    async def output(self, name: str) -> bytes:
        """As `ClientJob.output`."""
        return await self._client.output(self.id, name)

    async def save(self, path: str | Path, *, image: int = 0) -> Path:
        """As `ClientJob.save`."""
        done = self if self.status == "succeeded" else await self.wait()
        return await self._client.save(done, path, image=image)

    async def cancel(self) -> "AsyncClientJob":
        """As `ClientJob.cancel`."""
        return await self._client.cancel(self.id)

    async def delete(self) -> None:
        """As `ClientJob.delete`."""
        await self._client.delete(self.id)


def _opened(content: bytes) -> "Image":
    from PIL import Image  # only callers who want one need it

    image = Image.open(BytesIO(content))
    image.load()
    return image
