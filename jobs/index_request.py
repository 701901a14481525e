"""Requests for indexing: where the images come from, and into which collection they go."""

from typing import Self

from pydantic import BaseModel, model_validator

URLS = "urls.json"  # the job's file of addresses, with ids and metadata
PART_BYTES = 8 * 2**20  # of an archive, but for its last part


class IndexRequest(BaseModel, frozen=True, extra="forbid"):
    """Exactly one of `folder`, `urls` and `archive` says where the images are."""

    collection: str  # of the job's tenant
    folder: str | None = None  # the name of a root, and a path below it
    urls: int | None = None  # how many; the job's file `urls.json` has them
    archive: int | None = None  # bytes of a tar, which the store has in parts
    replace: bool = False  # also what the collection has already

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if sum(value is not None for value in (self.folder, self.urls, self.archive)) != 1:
            raise ValueError("say one of folder, urls and archive")
        return self


def archive_key(job_id: str, part: int) -> str:
    """Where in the store that part of a job's archive is."""
    return f"{job_id}/archive-{part:05d}"


def archive_keys(job_id: str, size: int) -> list[str]:
    """Where all parts of an archive of that many bytes are."""
    return [archive_key(job_id, part) for part in range(-(-size // PART_BYTES))]
