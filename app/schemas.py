"""What requests and problems look like on the wire: the contract as pydantic models."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from jobs.record.outbox import WebhookEvent
from jobs.record.priorities import JobType
from models.requests.request import MAX_SEED, Aspect, Compat, Prompt, Quality, SaveOptions, seed_of_word

TEXT = {"type": "string", "minLength": 1}
IMAGE: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "description": "data:image/…;base64,… or bare base64 of a JPEG, PNG, WebP, GIF, BMP or TIFF file",
    "examples": ["data:image/gif;base64,R0lGODdhAQABAIEAAP///wAAAAAAAAAAACwAAAAAAQABAAAIBAABBAQAOw=="],
}
ITEM: dict[str, Any] = {
    "description": "a text, or a text or a picture in an object",
    "anyOf": [
        TEXT,
        *(
            {"type": "object", "properties": {name: kind}, "required": [name], "additionalProperties": False}
            for name, kind in (("text", TEXT), ("image", IMAGE))
        ),
    ],
}


def _picture(value: Any) -> str | bytes:
    if isinstance(value, str | bytes):
        return value
    raise PydanticCustomError("image_type", "an image is a string in JSON, a file in a form")


Picture = Annotated[str | bytes, PlainValidator(_picture), WithJsonSchema(IMAGE)]
"""Base64 of a file, or, in a form, the file itself."""
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
ModelName = Annotated[str, Field(min_length=1, max_length=200, description="a name of GET /v1/models")]
Label = Annotated[str, Field(min_length=1)]
Template = Annotated[str, Field(pattern=r"\{label\}", description="a text that holds {label}")]
TopK = Annotated[int, Field(ge=1, description="how many of the best to answer; all if not said")]


class Wire(BaseModel):
    """A request body: what it does not know it refuses."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Fault(BaseModel, frozen=True):
    """One thing that is wrong with a request, and where."""

    pointer: str = Field(
        description="JSON pointer into the body, such as #/labels/3; or query/limit, header/x"
    )
    code: str
    detail: str


class OpenAIError(BaseModel):
    """An error in the words of OpenAI's API, whose clients look for it under `error`."""

    message: str
    type: str
    code: str
    param: str | None = Field(description="the field that is to blame, such as size or input.3")


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    code: str = Field(description="a stable word for programs")
    detail: str
    instance: str
    request_id: str
    retryable: bool
    errors: list[Fault] = []
    error: OpenAIError = Field(description="the same for clients of OpenAI's API")


class Item(Wire):
    """A text or a picture; a bare string is a text."""

    text: Annotated[str, Field(min_length=1)] | None = None
    image: Picture | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_string_is_a_text(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _text_or_image(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise ValueError("say either a text or an image")
        return self


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


AnyItem = Annotated[Item, WithJsonSchema(ITEM)]
Items = Annotated[list[AnyItem], Field(min_length=1)]
ItemOrItems = Annotated[
    list[Item],
    Field(min_length=1),
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [*ITEM["anyOf"], {"type": "array", "items": ITEM, "minItems": 1}]}),
]


class ClassifyRequest(Wire):
    """Pictures, and the labels to choose from."""

    images: Annotated[list[Picture], Field(min_length=1)]
    labels: Annotated[list[Label], Field(min_length=1)]
    templates: Annotated[list[Template], Field(min_length=1)] | None = None
    top_k: TopK | None = None
    model: ModelName | None = None


class VectorOptions(Wire):
    """Of which model vectors are, and how they are written."""

    model: ModelName | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, description="keep the first so many numbers, rescaled")] | None = (
        None
    )
    dtype: Annotated[
        Literal["float32", "float16"], Field(description="of the numbers, in base64 and .npy files")
    ] = "float32"


class BulkOptions(VectorOptions):
    """What the query of a bulk request may say."""

    on_error: Annotated[
        Literal["fail", "skip"],
        Field(description="whether an item that is refused fails the request, or only has no vector"),
    ] = "fail"


class EmbeddingsRequest(VectorOptions):
    """Texts and pictures to embed, in OpenAI's shape."""

    input: ItemOrItems
    user: (
        Annotated[str, Field(max_length=512, description="OpenAI's clients may say it; not used")] | None
    ) = None


class RankRequest(Wire):
    """A query, and what to rank by how near it is."""

    query: AnyItem
    candidates: Items
    top_k: TopK | None = None
    model: ModelName | None = None


class WebhookRequest(Wire):
    """Who is told, by signed requests, what happens to a job."""

    url: Annotated[str, Field(min_length=1, max_length=2048, json_schema_extra={"format": "uri"})]
    events: Annotated[
        list[WebhookEvent], Field(min_length=1, max_length=10, description="every end of a job, if not said")
    ] = ["job.succeeded", "job.failed", "job.canceled", "job.expired"]


class AnyJobRequest(Wire):
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
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
        Field(max_length=16),
    ] = {}


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
    options: dict[str, Any] = {}
    save: SaveOptions = SaveOptions()

    @model_validator(mode="after")
    def _prompt_or_prompts(self) -> Self:
        if self.prompt is None and self.prompts is None:
            raise ValueError("say prompt, prompts or both")
        return self
