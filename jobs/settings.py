"""The settings that the API and the workers share; the environment is read in the two `__main__`s only."""

import binascii
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Self

from pydantic import ByteSize, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from jobs.images import ImageLimits
from jobs.record.priorities import JobType
from models.requests.network_names import NetworkNames
from models.weights_io.card import WEIGHTS
from storage.collections.image_fields import is_image_id
from storage.net.safe_http import Rules


class JobSettings(BaseSettings):
    """Where jobs live, how many may wait, and how long things may take. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="CLIPCANVAS_",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # some are secrets
    )

    redis_url: str = Field("redis://127.0.0.1:6379/0", description="the Redis that holds queue and records")
    vector_redis_url: str | None = Field(
        None, description="the Redis 8 that holds collections; the queue's, if not said"
    )
    store: str = Field(
        default_factory=lambda: Path("data/store").absolute().as_uri(),
        description="where images are kept: file:///folder or s3://bucket/prefix",
    )

    vqgan: str = Field("demo", description="card of the VQGAN that draws")
    guides: tuple[str, ...] = Field(
        ("demo-icons",), min_length=1, description="cards of the CLIPs that guide drawing, as a JSON list"
    )
    judge: str | None = Field(
        None, description="card of a CLIP that scores drawings and guides none; none: no held-out score"
    )
    min_dalle: str = Field(
        "min-dalle-mini", description="card of what the generator min_dalle draws with, if it is served"
    )
    unclip: tuple[str, ...] = Field(
        ("karlo-v1-alpha",),
        min_length=1,
        description="cards of what the generator unclip draws with, if it is served, as a JSON list; each "
        "network is that of the first card which has it",
    )
    weights: Path = Field(WEIGHTS, description="folder of the weights that cards name by a relative path")
    generators: tuple[str, ...] = Field(
        ("dalle", "fft", "gradient", "lines", "pixels", "vqgan_clip", "vqgan_transformer"),
        min_length=1,
        description="what clients may ask for, as a JSON list",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps")
    dtype: str = Field(
        "fp32",
        pattern="^(fp32|bf16|fp16)$",
        description="precision of the networks that draw; fp16 is of CLIP alone: a VQGAN overflows in it",
    )
    device_memory: Annotated[ByteSize, Field(gt=0)] | None = Field(
        None,
        description="what a drawing may take of a worker's memory, such as 8GiB; none: all that the device "
        "has, or the container on a CPU, and the API goes by the largest worker",
    )

    cuda_graphs: bool = Field(
        False,
        description="what COMPILE_SIZES and CLIP_COMPILE_BATCHES compile is captured as CUDA graphs, too, if "
        "it is on a GPU; each takes memory of its own",
    )
    compile_cache: Path = Field(
        default_factory=lambda: Path("data/compiled").absolute(),
        description="folder that keeps what was compiled for the next start",
    )

    max_image_pixels: int = Field(40_000_000, ge=1, description="pixels of one image")
    max_image_side: int = Field(16_384, ge=1, description="longest side of one image, in pixels")
    max_image_aspect: float = Field(50, ge=1, description="longest side of an image over its shortest")

    vector_timeout_s: float = Field(
        5, gt=0, description="longest time for one call of the vector Redis; then 503"
    )
    vector_memory_share: float = Field(
        0.8,
        gt=0,
        le=1,
        description="images are added while the vector Redis uses less than this share of its maxmemory, "
        "so that a queue on the same server keeps room; then 507",
    )
    max_collection_images: int = Field(1_000_000, ge=1, description="images of one collection")
    max_metadata_bytes: int = Field(4096, ge=2, description="metadata of one image, as JSON")
    thumbnail_side: int = Field(
        256,
        ge=16,
        le=2048,
        description="shortest side of a thumbnail, in pixels; images are never enlarged",
    )

    max_queued: int = Field(1000, ge=1, description="jobs that may wait in all; one more is refused with 503")
    max_queued_per_key: int = Field(100, ge=1, description="jobs of one key that may wait; then 429")
    max_attempts: int = Field(3, ge=1, description="starts of a job, before it fails as worker_lost")
    lease_s: float = Field(10, gt=0, description="a running job unheard of for so long is taken over")
    run_timeout_s: float = Field(
        1800,
        gt=0,
        description="how long a drawing may take, all attempts together; a request may say less",
    )
    index_timeout_s: float = Field(
        86_400, gt=0, description="how long an indexing job may run, all attempts together"
    )
    max_start_timeout_s: float = Field(
        7 * 86400, ge=1, description="longest `start_timeout_s` that a request may ask for"
    )
    retention_s: float = Field(7 * 86400, gt=0, description="a final job and its files are kept for so long")
    idempotency_ttl_s: float = Field(86400, gt=0, description="how long an Idempotency-Key is remembered")

    webhook_secrets: tuple[SecretStr, ...] = Field(
        (),
        description="`whsec_` and 24 to 64 random bytes in base64, as a JSON list; each of them signs, "
        "so that receivers can change over; none: webhooks are refused",
    )
    webhook_ports: tuple[int, ...] = Field((443, 80), description="ports that webhooks may name")
    webhook_allow_http: bool = Field(False, description="take http:// webhooks: for development only")
    webhook_allow_private: bool = Field(
        False, description="call webhooks on this machine and in private networks, too"
    )

    index_roots: dict[str, Path] = Field(
        {},
        description="folders of the workers' machines whose images every key may index, as a JSON object: "
        "names of your choice, and absolute paths; none: none",
    )
    max_index_file_bytes: int = Field(32 * 2**20, ge=1024, description="file of one image that is indexed")
    fetch_urls: bool = Field(False, description="index images at addresses that clients name, too")
    fetch_ports: tuple[int, ...] = Field((443, 80), description="ports that those addresses may name")
    fetch_allow_http: bool = Field(False, description="fetch from http:// addresses, too")
    fetch_allow_private: bool = Field(
        False, description="fetch from this machine and from private networks, too"
    )
    fetch_timeout_s: float = Field(10, gt=0, description="longest time for one image, redirects included")

    @field_validator("index_roots")
    @classmethod
    def _check_roots(cls, roots: dict[str, Path]) -> dict[str, Path]:
        for name, path in roots.items():
            if "/" in name or not is_image_id(name):
                raise ValueError(f"not a name for a folder: {name!r}")
            if not path.is_absolute():
                raise ValueError(f"the path of {name!r} is not absolute")
        return roots

    @field_validator("webhook_secrets")
    @classmethod
    def _check_secrets(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for secret in secrets:
            webhook_key(secret)
        return secrets

    @model_validator(mode="after")
    def _held_out(self) -> Self:
        if self.judge in self.guides:
            raise ValueError("the judge must not be a guide: its score would say nothing")
        return self

    def longest_run_s(self, job_type: JobType) -> float:
        """How long a job of that type may run."""
        return self.index_timeout_s if job_type == "index" else self.run_timeout_s

    @property
    def vectors_url(self) -> str:
        """The Redis that holds collections."""
        return self.vector_redis_url or self.redis_url

    @property
    def image_limits(self) -> ImageLimits:
        """How large one image may be."""
        return ImageLimits(self.max_image_pixels, self.max_image_side, self.max_image_aspect)

    @property
    def webhook_rules(self) -> Rules:
        """Where webhooks may be."""
        return Rules(frozenset(self.webhook_ports), self.webhook_allow_http, self.webhook_allow_private)

    @property
    def fetch_rules(self) -> Rules:
        """Where images may be fetched from."""
        return Rules(frozenset(self.fetch_ports), self.fetch_allow_http, self.fetch_allow_private)

    @property
    def network_names(self) -> NetworkNames:
        """Which networks draw, and how."""
        return NetworkNames(
            vqgan=self.vqgan,
            clips=self.guides,
            held_out=self.judge,
            min_dalle=self.min_dalle,
            unclip=self.unclip,
            generators=self.generators,
            weights=self.weights,
            device=self.device,
            dtype=self.dtype,
        )


def webhook_key(secret: SecretStr) -> bytes:
    """The bytes that a secret stands for, as Standard Webhooks has it.

    Raises:
        ValueError: it is no such secret.
    """
    prefix, _, text = secret.get_secret_value().rpartition("_")
    try:
        key = b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if prefix != "whsec" or not 24 <= len(key) <= 64:
        raise ValueError("a webhook secret is whsec_ and 24 to 64 bytes in base64")
    return key
