"""What answers look like on the wire: the contract as pydantic models."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.schemas import Fault
from jobs.job_response import JobAnswer
from models.weights_io.card import Model


class LabelScore(BaseModel):
    """How well one label fits a picture."""

    label: str
    probability: float
    similarity: float = Field(description="cosine of the picture's and the label's embeddings")


class Classified(BaseModel):
    """The labels of one picture, the likeliest first."""

    index: int
    labels: list[LabelScore]


class ClassifyUsage(BaseModel):
    """What was encoded."""

    images: int
    texts: int


class ClassifyAnswer(BaseModel):
    """One entry per picture, in the request's order."""

    object: Literal["list"] = "list"
    model: str
    data: list[Classified]
    usage: ClassifyUsage


class Embedding(BaseModel):
    """A vector of unit length."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str | None = Field(
        description="numbers, or base64 of little-endian `dtype`; null: see `error`"
    )
    error: Fault | None = Field(None, description="why an item of a bulk request has no vector")


class EmbeddingsUsage(BaseModel):
    """Tokens of the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """One entry per input, in the request's order."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: EmbeddingsUsage


class Ranked(BaseModel):
    """A candidate, by its place in the request."""

    index: int
    similarity: float


class RankAnswer(BaseModel):
    """The candidates, the nearest first."""

    object: Literal["list"] = "list"
    model: str
    data: list[Ranked]


class JobList(BaseModel):
    """Jobs, newest first."""

    object: Literal["list"] = "list"
    data: list[JobAnswer]
    has_more: bool
    last_id: str | None


class ModelAnswer(BaseModel):
    """A CLIP that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time at which this process began to serve it")
    owned_by: Literal["clipcanvas"] = "clipcanvas"
    status: str = Field(description="ready, loading, unloaded (asking for it loads it), or failed")
    loaded: bool
    embedding_dim: int | None = Field(description="null: known once it is loaded")
    image_size: int | None
    context_length: int | None
    license: str
    description: str


class ModelList(BaseModel):
    """The CLIPs that are served; the first is the default."""

    object: Literal["list"] = "list"
    data: list[ModelAnswer]


class GeneratorAnswer(BaseModel):
    """A way to draw."""

    name: str
    object: Literal["generator"] = "generator"
    description: str
    defaults: dict[str, Any]
    presets: dict[str, dict[str, dict[str, Any]]] = Field(
        description="what each of `quality`, `aspect` and `compat` changes of the defaults"
    )
    limits: dict[str, Any]
    model: Model | None = Field(
        None,
        description="what it draws with, where that is a model of its own; none: the VQGAN and the guides",
    )
    options: dict[str, Any] = Field(description="JSON Schema of a job's options")


class GeneratorList(BaseModel):
    """The ways to draw."""

    object: Literal["list"] = "list"
    data: list[GeneratorAnswer]


class QueueAnswer(BaseModel):
    """How busy the service is."""

    queued: int
    running: int
    workers: list[dict[str, Any]]


class DeliveryAnswer(BaseModel):
    """An event that a webhook is told, and how that went so far."""

    id: str = Field(description="the `webhook-id` of its requests")
    object: Literal["webhook_delivery"] = "webhook_delivery"
    event: str
    status: str = Field(description="pending, delivered, or failed: it is not tried any more")
    attempts: int
    created_at: datetime
    last_attempt_at: datetime | None
    next_attempt_at: datetime | None
    response_status: int | None = Field(description="HTTP status of the last attempt")
    error: str | None = Field(description="why the last attempt failed")


class DeliveryList(BaseModel):
    """What a job's webhook is told, the oldest first."""

    object: Literal["list"] = "list"
    data: list[DeliveryAnswer]


class ReadyAnswer(BaseModel):
    """Whether the service can do its work, and how each part of it is."""

    status: Literal["ready", "not ready"]
    parts: dict[str, str]
