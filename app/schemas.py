"""What requests and answers look like on the wire: the contract as pydantic models."""

from datetime import datetime
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

from models.generators import MAX_SEED, Prompt

TEXT = {"type": "string", "minLength": 1}
IMAGE = {
    "type": "string",
    "minLength": 1,
    "description": "data:image/…;base64,… or bare base64 of a JPEG, PNG, WebP, GIF, BMP or TIFF file",
    "examples": ["data:image/png;base64,iVBORw0KGgo="],
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


class EmbeddingsRequest(Wire):
    """Texts and pictures to embed, in OpenAI's shape."""

    input: ItemOrItems
    model: ModelName | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, description="keep the first so many numbers, rescaled")] | None = (
        None
    )
    user: (
        Annotated[str, Field(max_length=512, description="OpenAI's clients may say it; not used")] | None
    ) = None


class RankRequest(Wire):
    """A query, and what to rank by how near it is."""

    query: AnyItem
    candidates: Items
    top_k: TopK | None = None
    model: ModelName | None = None


class JobRequest(Wire):
    """A drawing to make. What is not said, the generator's own defaults fill."""

    type: Literal["draw"] = "draw"
    generator: Annotated[str, Field(min_length=1, max_length=64)] = "vqgan_clip"
    prompt: PromptLine | None = None
    prompts: Annotated[list[Prompt], Field(min_length=1)] | None = None
    width: Annotated[int, Field(ge=16, le=4096)] | None = None
    height: Annotated[int, Field(ge=16, le=4096)] | None = None
    steps: Annotated[int, Field(ge=1, le=10_000)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    num_images: Annotated[int, Field(ge=1, le=16)] = 1
    options: dict[str, Any] = {}
    priority: Literal["high", "normal", "low"] = "normal"
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
        Field(max_length=16),
    ] = {}

    @model_validator(mode="after")
    def _prompt_or_prompts(self) -> Self:
        if (self.prompt is None) == (self.prompts is None):
            raise ValueError("say either prompt or prompts")
        return self


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
    embedding: list[float] | str = Field(description="numbers, or base64 of little-endian float32")


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


class ProgressAnswer(BaseModel):
    """How far a running job is, over all of its pictures."""

    step: int
    steps: int
    fraction: float
    loss: float | None
    eta_s: float | None
    steps_per_s: float | None
    preview: str | None


class OutputAnswer(BaseModel):
    """A picture of a job."""

    name: str
    url: str
    content_type: str
    width: int | None
    height: int | None
    seed: int | None
    clip_score: float | None


class JobErrorAnswer(BaseModel):
    """Why a job failed."""

    code: str
    detail: str
    retryable: bool


class JobAnswer(BaseModel):
    """A job at one moment."""

    id: str
    object: Literal["job"] = "job"
    type: str
    status: str
    seq: int
    priority: str
    generator: str
    request: dict[str, Any]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    cancel_requested_at: datetime | None
    attempt: int
    queue_position: int | None
    progress: ProgressAnswer | None
    outputs: list[OutputAnswer]
    error: JobErrorAnswer | None
    metadata: dict[str, str]


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
    status: str = Field(description="loading, ready, or failed")
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
    limits: dict[str, Any]
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
