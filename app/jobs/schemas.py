"""Requests and answers of the job routes, as pydantic models."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from app.collections.requests import COLLECTION_NAME, METADATA, ImageId, Metadata
from app.http.fields import TEXT, RequestModel
from jobs.job_response import JobAnswer
from jobs.record.outbox import WebhookEvent
from jobs.record.priorities import JobType
from models.requests.request import MAX_SEED, Aspect, Compat, Prompt, Quality, SaveOptions, seed_of_word
from models.weights_io.card import Model

PromptLine = Annotated[
    str, Field(min_length=1, max_length=20_000, description="texts separated by |, each text:weight:stop")
]
Seed = Annotated[
    int,
    BeforeValidator(lambda value: seed_of_word(value) if isinstance(value, str) else value),
    Field(ge=0, le=MAX_SEED),
    WithJsonSchema(
        {
            "description": "a number, or a word that stands for one",
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": MAX_SEED},
                {"type": "string", "minLength": 1},
            ],
        }
    ),
]


class WebhookRequest(RequestModel):
    """Who is told, by signed requests, what happens to a job."""

    url: Annotated[str, Field(min_length=1, max_length=2048, json_schema_extra={"format": "uri"})]
    events: list[WebhookEvent] = Field(
        ["job.succeeded", "job.failed", "job.canceled", "job.expired"],
        min_length=1,
        max_length=10,
        description="every end of a job, if not said",
    )


class AnyJobRequest(RequestModel):
    """What requests for jobs of every type may say."""

    type: JobType
    priority: Literal["high", "normal", "low"] = "normal"
    start_timeout_s: (
        Annotated[int, Field(ge=1, description="the job expires if no worker starts it in so many seconds")]
        | None
    ) = None
    run_timeout_s: (
        Annotated[int, Field(ge=1, description="the job fails when it has run for so many seconds")] | None
    ) = None
    webhook: WebhookRequest | None = None
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        {}, max_length=16
    )


class JobRequest(AnyJobRequest):
    """A drawing to make. What is not said, the generator's own defaults fill."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["prompt"], "properties": {"prompt": {"type": "string"}}},
                {"required": ["prompts"], "properties": {"prompts": {"type": "array"}}},
            ]
        }
    )

    type: Literal["draw"] = "draw"
    generator: Annotated[str, Field(min_length=1, max_length=64)] = "vqgan_clip"
    prompt: PromptLine | None = None
    prompts: (
        Annotated[list[Prompt], Field(min_length=1, description="beside those of `prompt`, if both are said")]
        | None
    ) = None
    width: Annotated[int, Field(ge=16, le=4096)] | None = None
    height: Annotated[int, Field(ge=16, le=4096)] | None = None
    steps: Annotated[int, Field(ge=1, le=10_000)] | None = None
    seed: Seed | None = None
    num_images: Annotated[int, Field(ge=1, le=16)] = 1
    quality: Annotated[Quality, Field(description="how much time a picture is worth")] = "normal"
    aspect: Annotated[Aspect, Field(description="a size of this shape that suits the models")] | None = None
    compat: Annotated[Compat, Field(description="the defaults of that program of the field")] | None = None
    options: dict[str, Any] = Field({})
    save: SaveOptions = SaveOptions()

    @model_validator(mode="after")
    def _prompt_or_prompts(self) -> Self:
        if self.prompt is None and self.prompts is None:
            raise ValueError("say prompt, prompts or both")
        return self


class IndexUrl(RequestModel):
    """Where a picture is, and what is kept of it."""

    url: Annotated[str, Field(min_length=1, max_length=2048, json_schema_extra={"format": "uri"})]
    id: ImageId | None = None
    metadata: Annotated[Metadata, Field(default_factory=dict)]

    @model_validator(mode="before")
    @classmethod
    def _a_string_is_a_url(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value


_URL = {"type": "string", "minLength": 1, "format": "uri"}
_URLS = {
    "type": "array",
    "minItems": 1,
    "description": "addresses of pictures, or objects with url, id and metadata",
    "items": {
        "anyOf": [
            _URL,
            {
                "type": "object",
                "properties": {"url": _URL, "id": TEXT, "metadata": METADATA},
                "required": ["url"],
                "additionalProperties": False,
            },
        ]
    },
}


class _Indexing(AnyJobRequest):
    type: Literal["index"]
    collection: Annotated[str, Field(pattern=COLLECTION_NAME, description="which must be there")]
    replace: Annotated[bool, Field(description="add those that are there already, too")] = False


class IndexJobRequest(_Indexing):
    """Pictures to add to a collection: those of a folder of the service, or at addresses."""

    folder: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=256,
                description="a name of the setting index_roots, and a path below: photos/2024",
            ),
        ]
        | None
    ) = None
    urls: Annotated[list[IndexUrl], Field(min_length=1), WithJsonSchema(_URLS)] | None = None

    @model_validator(mode="after")
    def _folder_or_urls(self) -> Self:
        if (self.folder is None) == (self.urls is None):
            raise ValueError("say either folder or urls; a tar is sent as application/x-tar")
        return self


class IndexArchiveRequest(_Indexing):
    """What the query of a request says whose body is a tar."""

    type: Literal["index"] = "index"


class JobList(BaseModel):
    """Jobs, newest first."""

    object: Literal["list"] = "list"
    data: list[JobAnswer]
    has_more: bool
    last_id: str | None


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
