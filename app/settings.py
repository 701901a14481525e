"""The settings of the API: where it listens, which CLIPs it serves, and every limit of the contract."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

from jobs.settings import JobSettings

Scope = Literal["clip", "collections", "jobs", "priority"]  # priority: jobs before everybody else's


class ApiKey(BaseModel, frozen=True, extra="forbid"):
    """A key that may call. Only its hash is known here."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    scopes: frozenset[Scope] = frozenset({"clip", "collections", "jobs"})


class ApiSettings(JobSettings):
    """What one API process needs to know. Times are in seconds."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    forwarded_allow_ips: str = Field(
        "127.0.0.1", description="proxies whose X-Forwarded-* headers are believed, separated by commas"
    )
    log_level: str = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="least level that is logged"
    )
    shutdown_timeout_s: int = Field(20, ge=1, description="how long requests may take to end after SIGTERM")
    api_keys: tuple[ApiKey, ...] = Field(
        (), description="keys that may call, as a JSON list; none: everybody may (`python -m app key NAME`)"
    )

    clip_models: tuple[str, ...] = Field(
        ("demo-photo",),
        min_length=1,
        description="cards of the CLIPs to serve, as a JSON list; first is the default",
    )
    clip_dtype: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto",
        description="precision of the CLIPs to serve; auto: 16 bits where the device computes in them and "
        "the model's card allows it, else fp32; int8: on a CPU only",
    )
    clip_compile_batches: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        (),
        description="sizes of batches, such as [1, 8, 64], for which a CLIP is compiled as it is loaded: "
        "minutes the first time. A batch is padded to the next size. For GPUs: on a CPU it is slower",
    )
    clip_preload: tuple[str, ...] | None = Field(
        None,
        description="CLIPs to load at the start, as a JSON list, others on their first use; "
        "not set: all, or only the first if CLIP_MEMORY bounds them",
    )
    clip_memory: int = Field(
        0,
        ge=0,
        description="bytes that CLIPs may take together, as their cards predict; "
        "the least recently used is evicted for another; 0: no bound",
    )
    clip_warm_up_s: float = Field(
        4,
        ge=0,
        description="longest time to measure which batches suit a CLIP when it is loaded; 0: the largest",
    )
    max_batch_images: int = Field(256, ge=1, description="images encoded in one call; 1 turns batching off")
    max_batch_texts: int = Field(256, ge=1, description="texts encoded in one call; 1 turns batching off")
    max_waiting_images: int = Field(
        512, ge=1, description="images in work or waiting, per model; more is 503"
    )
    max_waiting_texts: int = Field(
        65_536, ge=1, description="texts in work or waiting, per model; more is 503"
    )
    text_cache_rows: int = Field(
        50_000, ge=0, description="text embeddings kept, per model; likewise label matrices"
    )
    image_cache_rows: int = Field(
        0, ge=0, description="image embeddings kept by the hash of their file, per model; 0: none"
    )
    exact_decode: bool = Field(
        False,
        description="decode large JPEGs at full size, and resize as in training, to the last bit; else "
        "decode them no larger than the model can tell apart, and resize in a third of the time",
    )
    clip_threads: int = Field(
        0,
        ge=0,
        description="batches of a CLIP that a CPU computes at once, each on its share of the cores, if they "
        "are long; 0: one per core, as far as the control group lets this process have them",
    )
    decode_threads: int = Field(0, ge=0, description="threads that decode images; 0: one per core, likewise")
    body_idle_s: float = Field(30, gt=0, description="a request is given up if its body pauses for so long")
    clip_timeout_s: float = Field(60, gt=0, description="longest time for one CLIP request; then 503")

    compat: tuple[Literal["weaviate", "immich"], ...] = Field(
        (),
        description="neighbors whose CLIP containers this stands in for, as a JSON list: weaviate "
        "(multi2vec-clip) and immich (machine-learning)",
    )

    max_body_bytes: int = Field(32 * 2**20, ge=1024, description="longest request body")
    max_bulk_bytes: int = Field(
        2 * 2**30,
        ge=1024,
        description="longest body of a bulk request; each of its items is bounded as a body is",
    )
    max_held_bytes: int = Field(
        2 * 2**30,
        ge=1024,
        description="bodies of all requests that are in work, bulk ones aside; more is 503",
    )
    max_bulk_items: int = Field(10_000, ge=1, description="texts and images of one bulk request")
    max_archive_bytes: int = Field(2**30, ge=1024, description="longest tar of images to index")
    max_index_urls: int = Field(10_000, ge=1, description="addresses in one request for indexing")
    max_images: int = Field(64, ge=1, description="images in one request")
    max_labels: int = Field(4096, ge=1, description="labels of one classification")
    max_templates: int = Field(128, ge=1, description="templates of one classification")
    max_texts: int = Field(
        32_768, ge=1, description="texts in one request: labels times templates, or inputs"
    )
    max_text_chars: int = Field(2000, ge=1, description="characters of one text")
    max_prompts: int = Field(16, ge=1, le=16, description="prompts of one job")
    max_pixel_steps: int = Field(
        2_000_000_000, ge=1, description="width times height times steps times images of one job"
    )
    max_film_pixels: int = Field(
        250_000_000, ge=1, description="width times height times frames times images of one job's films"
    )
    max_streams_per_caller: int = Field(
        50,
        ge=1,
        description="event streams open at once for one key, or one address where keys are off; then 429",
    )
    max_wait_s: int = Field(60, ge=0, le=600, description="longest `Prefer: wait`")
    images_wait_s: float = Field(
        300, gt=0, le=3600, description="longest time that /v1/images waits for its drawing; then 202"
    )
    max_waits: int = Field(
        200,
        ge=1,
        description="requests of /v1/images, or with `Prefer: wait`, that wait at once; more do not wait",
    )
    max_stream_s: float = Field(
        3600, gt=0, description="an event stream is closed after so long; clients resume"
    )

    input_side: int = Field(
        1024, ge=64, description="images of a request are kept no larger than this, or than the drawing"
    )

    vector_filter_effort: int = Field(
        20_000,
        ge=1,
        description="steps of a search by a filter that few pass, in a collection too large to be scanned",
    )
    max_collections_per_key: int = Field(100, ge=1, description="collections of one key")
    max_vectors: int = Field(1000, ge=1, description="images that one request adds by their vectors")
    max_queries: int = Field(64, ge=1, description="queries in one search")
    max_query_parts: int = Field(
        16, ge=1, description="texts, images, ids and vectors that make up one query"
    )
    max_top_k: int = Field(1000, ge=1, description="images that one query finds")
    max_effort: int = Field(10_000, ge=1, description="`effort` of a search")
    max_filter_chars: int = Field(1000, ge=1, description="characters of a filter")
    max_scanned_images: int = Field(
        200_000,
        ge=1,
        description="images of a collection that is searched exactly, by a selective filter, or classified",
    )

    @property
    def preloaded_clips(self) -> tuple[str, ...]:
        """The CLIPs that are loaded at the start."""
        if self.clip_preload is not None:
            return self.clip_preload
        return self.clip_models[:1] if self.clip_memory else self.clip_models

    @model_validator(mode="after")
    def _preload_what_is_served(self) -> Self:
        if not set(self.preloaded_clips) <= set(self.clip_models):
            raise ValueError("clip_preload names a CLIP that clip_models lacks")
        return self
