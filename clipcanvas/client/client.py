"""`Client`: calls the service and blocks."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

from clipcanvas.client import batches, endpoints, event_stream, results
from clipcanvas.client.batches import BULK_ITEMS, PIECE_ITEMS, Many, Progress
from clipcanvas.client.collections import endpoints as collection_endpoints
from clipcanvas.client.collections import results as collection_results
from clipcanvas.client.collections.collection import Collection
from clipcanvas.client.endpoints import ImageSource, JobOptions
from clipcanvas.client.job import ClientJob, waiting, write_whole
from clipcanvas.client.results import Classification, Embedding, Event, Job
from clipcanvas.client.transport import DEFAULT_URL, Transport, every_item


class Client:
    """Calls a Clipcanvas service. Close it, or use it in a `with`; one may serve many threads.

    Args:
        base_url: where the service is.
        api_key: sent as a bearer token, if the service asks for keys.
        retries: how often a call is sent again after no answer, a 429 or a 503.
        max_pause_s: longest pause before a retry; if the service asks for a longer one, the call fails.

    Raises:
        ValueError: `base_url` is no http or https URL.

    Every method raises `ApiError` where the service refuses and `Unreachable` where it does not answer.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        retries: int = 4,
        max_pause_s: float = 20,
    ) -> None:
        self._transport = Transport(base_url, api_key, retries=retries, max_pause_s=max_pause_s)

    def classify(
        self,
        images: ImageSource | Sequence[ImageSource],
        labels: Sequence[str],
        *,
        templates: Sequence[str] | None = None,
        top_k: int | None = None,
        model: str | None = None,
    ) -> results.Classifications:
        """Classify images by how well each label fits.

        Args:
            images: one or several; each a path, the bytes of a file, a PIL image or a URL.
            templates: sentences with `{label}` in them; without, the model's own.
            top_k: how many labels to answer for each image; without, all.
        """
        return self._transport.send(
            endpoints.classify(images, labels, templates=templates, top_k=top_k, model=model)
        )

    def embed(
        self,
        inputs: str | ImageSource | Sequence[str | ImageSource],
        *,
        model: str | None = None,
        dimensions: int | None = None,
    ) -> results.Embeddings:
        """Turn texts and images into vectors of one space.

        Args:
            inputs: one or several; a `str` is a text, a `Path`, bytes or a PIL image is an image.
            dimensions: keep this many numbers of each vector, and scale it to unit length again.
        """
        return self._transport.send(endpoints.embed(inputs, model=model, dimensions=dimensions))

    def rank(
        self,
        query: str | ImageSource,
        candidates: Sequence[str | ImageSource],
        *,
        top_k: int | None = None,
        model: str | None = None,
    ) -> results.Ranking:
        """Order candidates by how well they fit the query; a `str` is a text, everything else an image."""
        return self._transport.send(endpoints.rank(query, candidates, top_k=top_k, model=model))

    def classify_many(
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
        """`classify` for any number of images.

        Args:
            most: images in a request, at most.
            progress: called after each request with the number of images done.
        """
        return self._transport.run(
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

    def embed_many(
        self,
        inputs: Sequence[str | ImageSource],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        most: int = BULK_ITEMS,
        progress: Progress | None = None,
    ) -> Many[Embedding]:
        """`embed` for any number of texts and images; `most` and `progress` as for `classify_many`."""
        return self._transport.run(
            batches.answered(
                self._transport.sending,
                batches.embedding(inputs, model=model, dimensions=dimensions, most=most, progress=progress),
            )
        )

    def create_job(
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
    ) -> ClientJob:
        """Submit a drawing; returns the job that draws it.

        Args:
            prompt: a text, in which `a fox | blurry:-0.3` means two prompts with weights; or a list of
                `Prompt`.
            prompts: beside those of the text, such as images.
            width: pixels, as `height`; without, the generator's own.
            seed: a number, or a word that stands for one.
            quality: a name for a set of defaults, as `aspect` and `compat`; see `presets` in `generators`.
            options: the generator's own, see `generators`; images as paths, bytes of files or PIL images.
            save: what is kept beside the images, such as `{"format": "webp", "video": "mp4"}`.
            start_timeout_s: the job expires if no worker starts it in time.
            run_timeout_s: the job fails when it has run for so long.
            webhook: `{"url": …, "events": […]}`: the URL that receives events of the job.
            idempotency_key: the same key with the same request makes one job only, for 24 h; without, each
                call has a new one, so that its retries make one job.
        """
        return ClientJob.of(
            self._transport,
            self._transport.send(
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

    def job(self, job_id: str, *, wait_s: float = 0) -> ClientJob:
        """A job as soon as it is final, or as it is after `wait_s` seconds (at most 60)."""
        return ClientJob.of(self._transport, self._transport.send(endpoints.job(job_id, wait_s=wait_s)))

    def jobs(
        self, *, status: str | None = None, limit: int = 20, after: str | None = None
    ) -> results.JobPage:
        """A page of jobs, newest first; `after` is the last id of the page before."""
        return self._transport.send(endpoints.jobs(status=status, limit=limit, after=after))

    def cancel(self, job_id: str) -> ClientJob:
        """Stop a job: a queued one at once, a running one within a step."""
        return ClientJob.of(self._transport, self._transport.send(endpoints.cancel(job_id)))

    def delete(self, job_id: str) -> None:
        """Forget a final job and its files."""
        self._transport.send(endpoints.delete(job_id))

    def output(self, job_id: str, name: str) -> bytes:
        """The bytes of a file that a job made, such as `image-0.png`."""
        return self._transport.send(endpoints.output(job_id, name))

    def models(self) -> tuple[results.ModelCard, ...]:
        """The CLIP models that the service offers."""
        return self._transport.send(endpoints.models())

    def generators(self) -> tuple[results.GeneratorCard, ...]:
        """The ways of drawing that the service offers, with their options."""
        return self._transport.send(endpoints.generators())

    def queue(self) -> results.QueueState:
        """How many jobs wait and run, and who works."""
        return self._transport.send(endpoints.queue())

    def ready(self) -> results.Readiness:
        """Whether the service is ready, and what it still waits for."""
        return self._transport.send(endpoints.ready())

    def collections(self) -> collection_results.CollectionCards:
        """The caller's collections."""
        return self._transport.send(collection_endpoints.collections())

    def index_report(self, job_id: str) -> collection_results.IndexReport:
        """The report of an index job: how many images were added, replaced, known or refused."""
        return self._transport.send(collection_endpoints.index_report(job_id))

    def collection(self, name: str) -> Collection:
        """The collection of that name, which need not be there yet."""
        return Collection(self._transport, name)

    def draw(
        self,
        prompt: str | Sequence[results.Prompt],
        *,
        timeout_s: float | None = None,
        **request: Unpack[JobOptions],
    ) -> ClientJob:
        """Create a job as `create_job` does, and wait for it as `wait` does."""
        return self.create_job(prompt, **request).wait(timeout_s=timeout_s)

    def wait(self, job_id: str, *, timeout_s: float | None = None) -> ClientJob:
        """The job, once it has succeeded.

        Raises:
            JobFailed, JobCanceled, JobExpired: the job ended otherwise.
            WaitTimeout: the job was not final after `timeout_s` seconds.
        """
        return ClientJob.of(
            self._transport, self._transport.run(waiting(self._transport.sending, job_id, timeout_s))
        )

    def save(self, job: Job, path: str | Path, *, image: int = 0) -> Path:
        """Write an image of a job to a file, whole or not at all; `image` says which of several."""
        return write_whole(Path(path), self.output(job.id, job.picture(image).name))

    def every_job(self, *, status: str | None = None) -> Iterator[ClientJob]:
        """All jobs, newest first, fetched page by page."""
        jobs = every_item(lambda after: self.jobs(status=status, limit=100, after=after))
        return (ClientJob.of(self._transport, job) for job in jobs)

    def events(self, job_id: str, *, after: str | None = None) -> Iterator[Event]:
        """What happens to a job, until it is final; goes on by itself where a connection drops.

        Args:
            after: id of the last event already seen; without, from the start.
        """
        return event_stream.follow(self._transport, job_id, after)

    def close(self) -> None:
        """Close the connections."""
        self._transport.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
