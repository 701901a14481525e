"""`AsyncClient`: `Client` for asyncio."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

from clipcanvas.client import batches, endpoints, event_stream, results
from clipcanvas.client.batches import BULK_ITEMS, PIECE_ITEMS, Many, Progress
from clipcanvas.client.collections import endpoints as collection_endpoints
from clipcanvas.client.collections import results as collection_results
from clipcanvas.client.collections.async_collection import AsyncCollection
from clipcanvas.client.endpoints import ImageSource, JobOptions
from clipcanvas.client.job import AsyncClientJob, waiting, write_whole
from clipcanvas.client.results import Classification, Embedding, Event, Job
from clipcanvas.client.transport import DEFAULT_URL, AsyncTransport, every_item_async


class AsyncClient:
    """`Client` for asyncio: the same arguments and methods, awaited."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        retries: int = 4,
        max_pause_s: float = 20,
    ) -> None:
        self._transport = AsyncTransport(base_url, api_key, retries=retries, max_pause_s=max_pause_s)

    async def classify(
        self,
        images: ImageSource | Sequence[ImageSource],
        labels: Sequence[str],
        *,
        templates: Sequence[str] | None = None,
        top_k: int | None = None,
        model: str | None = None,
    ) -> results.Classifications:
        """As `Client.classify`."""
        return await self._transport.send(
            endpoints.classify(images, labels, templates=templates, top_k=top_k, model=model)
        )

    async def embed(
        self,
        inputs: str | ImageSource | Sequence[str | ImageSource],
        *,
        model: str | None = None,
        dimensions: int | None = None,
    ) -> results.Embeddings:
        """As `Client.embed`."""
        return await self._transport.send(endpoints.embed(inputs, model=model, dimensions=dimensions))

    async def rank(
        self,
        query: str | ImageSource,
        candidates: Sequence[str | ImageSource],
        *,
        top_k: int | None = None,
        model: str | None = None,
    ) -> results.Ranking:
        """As `Client.rank`."""
        return await self._transport.send(endpoints.rank(query, candidates, top_k=top_k, model=model))

    async def classify_many(
        self,
        images: Sequence[ImageSource],
        labels: Sequence[str],
        *,
        templates: Sequence[str] | None = None,
        top_k: int | None = None,
        model: str | None = None,
        most: int = PIECE_ITEMS,
        progress: Progress | None = None,
    ) -> Many[Classification]:
        """As `Client.classify_many`."""
        return await self._transport.run(
            batches.answered(
                self._transport.sending,
                batches.classification(
                    images,
                    labels,
                    templates=templates,
                    top_k=top_k,
                    model=model,
                    most=most,
                    progress=progress,
                ),
            )
        )

    async def embed_many(
        self,
        inputs: Sequence[str | ImageSource],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        most: int = BULK_ITEMS,
        progress: Progress | None = None,
    ) -> Many[Embedding]:
        """As `Client.embed_many`."""
        return await self._transport.run(
            batches.answered(
                self._transport.sending,
                batches.embedding(inputs, model=model, dimensions=dimensions, most=most, progress=progress),
            )
        )

    async def create_job(
        self,
        prompt: str | Sequence[results.Prompt],
        *,
        prompts: Sequence[results.Prompt] = (),
        generator: str | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        seed: int | str | None = None,
        num_images: int | None = None,
        quality: str | None = None,
        aspect: str | None = None,
        compat: str | None = None,
        options: Mapping[str, Any] | None = None,
        save: Mapping[str, Any] | None = None,
        priority: str | None = None,
        start_timeout_s: int | None = None,
        run_timeout_s: int | None = None,
        webhook: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncClientJob:
        """As `Client.create_job`."""
        return AsyncClientJob.of(
            self._transport,
            await self._transport.send(
                endpoints.create_job(
                    prompt,
                    prompts=prompts,
                    generator=generator,
                    width=width,
                    height=height,
                    steps=steps,
                    seed=seed,
                    num_images=num_images,
                    quality=quality,
                    aspect=aspect,
                    compat=compat,
                    options=options,
                    save=save,
                    priority=priority,
                    start_timeout_s=start_timeout_s,
                    run_timeout_s=run_timeout_s,
                    webhook=webhook,
                    metadata=metadata,
                    idempotency_key=idempotency_key,
                )
            ),
        )

    async def job(self, job_id: str, *, wait_s: float = 0) -> AsyncClientJob:
        """As `Client.job`."""
        return AsyncClientJob.of(
            self._transport, await self._transport.send(endpoints.job(job_id, wait_s=wait_s))
        )

    async def jobs(
        self, *, status: str | None = None, limit: int = 20, after: str | None = None
    ) -> results.JobPage:
        """As `Client.jobs`."""
        return await self._transport.send(endpoints.jobs(status=status, limit=limit, after=after))

    async def cancel(self, job_id: str) -> AsyncClientJob:
        """As `Client.cancel`."""
        return AsyncClientJob.of(self._transport, await self._transport.send(endpoints.cancel(job_id)))

    async def delete(self, job_id: str) -> None:
        """As `Client.delete`."""
        await self._transport.send(endpoints.delete(job_id))

    async def output(self, job_id: str, name: str) -> bytes:
        """As `Client.output`."""
        return await self._transport.send(endpoints.output(job_id, name))

    async def models(self) -> tuple[results.ModelCard, ...]:
        """As `Client.models`."""
        return await self._transport.send(endpoints.models())

    async def generators(self) -> tuple[results.GeneratorCard, ...]:
        """As `Client.generators`."""
        return await self._transport.send(endpoints.generators())

    async def queue(self) -> results.QueueState:
        """As `Client.queue`."""
        return await self._transport.send(endpoints.queue())

    async def ready(self) -> results.Readiness:
        """As `Client.ready`."""
        return await self._transport.send(endpoints.ready())

    async def collections(self) -> collection_results.CollectionCards:
        """As `Client.collections`."""
        return await self._transport.send(collection_endpoints.collections())

    async def index_report(self, job_id: str) -> collection_results.IndexReport:
        """As `Client.index_report`."""
        return await self._transport.send(collection_endpoints.index_report(job_id))

    def collection(self, name: str) -> AsyncCollection:
        """As `Client.collection`."""
        return AsyncCollection(self._transport, name)

    async def draw(
        self,
        prompt: str | Sequence[results.Prompt],
        *,
        timeout_s: float | None = None,
        **request: Unpack[JobOptions],
    ) -> AsyncClientJob:
        """As `Client.draw`."""
        return await (await self.create_job(prompt, **request)).wait(timeout_s=timeout_s)

    async def wait(self, job_id: str, *, timeout_s: float | None = None) -> AsyncClientJob:
        """As `Client.wait`."""
        job = await self._transport.run(waiting(self._transport.sending, job_id, timeout_s))
        return AsyncClientJob.of(self._transport, job)

    async def save(self, job: Job, path: str | Path, *, image: int = 0) -> Path:
        """As `Client.save`."""
        content = await self.output(job.id, job.picture(image).name)
        return await asyncio.to_thread(write_whole, Path(path), content)

    async def every_job(self, *, status: str | None = None) -> AsyncIterator[AsyncClientJob]:
        """As `Client.every_job`."""
        async for job in every_item_async(lambda after: self.jobs(status=status, limit=100, after=after)):
            yield AsyncClientJob.of(self._transport, job)

    def events(self, job_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """As `Client.events`."""
        return event_stream.follow_async(self._transport, job_id, after)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
