"""Metrics for Prometheus: requests, batches, caches, jobs, workers. No ids or key names as labels."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one API process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self.requests = Counter(
            "clipcanvas_http_requests", "Requests answered", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "clipcanvas_http_request_duration_seconds",
            "Time to the first byte of the answer",
            ["route", "method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.problems = Counter(
            "clipcanvas_problems", "Errors answered, by their code", ["code"], registry=registry
        )
        self.batch_size = Histogram(
            "clipcanvas_clip_batch_size",
            "Items in one call of CLIP",
            ["tower"],
            buckets=_SIZES,
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "clipcanvas_clip_batch_duration_seconds",
            "Time of one call of CLIP",
            ["tower"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "clipcanvas_clip_queue_duration_seconds",
            "Time from a request's items being ready to the first of them on the device",
            ["tower"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.text_cache = Counter(
            "clipcanvas_text_cache_lookups", "Texts looked up in the cache", ["result"], registry=registry
        )
        self.images_added = Counter(
            "clipcanvas_collection_images_added", "Images added to collections", registry=registry
        )
        self.search_seconds = Histogram(
            "clipcanvas_vector_search_duration_seconds",
            "Time of the vector Redis for the queries of one search",
            buckets=_SECONDS,
            registry=registry,
        )
        self.jobs_submitted = Counter(
            "clipcanvas_jobs_submitted", "Jobs accepted", ["generator", "priority"], registry=registry
        )
        self.replays = Counter(
            "clipcanvas_idempotent_replays", "Creates answered from an earlier one", registry=registry
        )
        self.streams = Gauge("clipcanvas_event_streams", "Event streams open now", registry=registry)
        self.jobs = Gauge("clipcanvas_jobs", "Jobs that wait or run", ["state"], registry=registry)
        self.workers = Gauge("clipcanvas_workers", "Workers seen lately", ["state"], registry=registry)
        self.webhook_lag = Gauge(
            "clipcanvas_webhook_lag_seconds", "How late the webhook is that is due first", registry=registry
        )
        self.redis_up = Gauge("clipcanvas_redis_up", "Whether Redis answered this scrape", registry=registry)
