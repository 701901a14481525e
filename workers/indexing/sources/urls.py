"""Images at addresses that a client listed, fetched under guard."""

import json
from collections.abc import Iterator
from typing import Any

from jobs.index_request import URLS
from jobs.record.record import Job
from storage.blobs import Store
from storage.net.fetch import Fetcher, FetchFailed
from workers.indexing.sources import Content, Entry, EntryRefused
from workers.runner.job_errors import JobFailed
from workers.settings import WorkerSettings


class Urls:
    """The job's file has them, with ids and metadata."""

    def __init__(
        self, job: Job, settings: WorkerSettings, store: Store, fetcher: Fetcher | None = None
    ) -> None:
        if not settings.fetch_urls:
            raise JobFailed("urls_not_fetched", "the worker fetches no images from addresses")
        self._items: list[dict[str, Any]] = json.loads(store.read(f"{job.id}/{URLS}"))
        self._fetcher = fetcher or Fetcher(
            settings.fetch_rules,
            max_bytes=settings.max_index_file_bytes,
            timeout_s=settings.fetch_timeout_s,
        )

    def count(self) -> int:
        return len(self._items)

    def entries(self, after: Any = None) -> Iterator[Entry]:
        for index in range(0 if after is None else after + 1, len(self._items)):
            item = self._items[index]
            yield Entry(item["id"], index, lambda item=item: self._read(item))  # type: ignore[misc]

    def close(self) -> None:
        self._fetcher.close()

    def _read(self, item: dict[str, Any]) -> Content:
        try:
            data = self._fetcher.fetch(item["url"])
        except FetchFailed as failed:
            raise EntryRefused(failed.code, str(failed)) from failed
        return Content(data, item["metadata"], item["url"])
