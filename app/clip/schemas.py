"""Requests and answers of the CLIP routes, as pydantic models."""

from typing import Annotated, Literal, NotRequired

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from app.http.errors import Fault
from app.http.fields import AnyItem, ItemOrItems, Items, Label, ModelName, RequestModel, Template, TopK
from app.http.image_input import ImageData


class ClassifyRequest(RequestModel):
    """Images, and the labels to choose from."""

    images: Annotated[list[ImageData], Field(min_length=1)]
    labels: Annotated[list[Label], Field(min_length=1)]
    templates: Annotated[list[Template], Field(min_length=1)] | None = None
    top_k: TopK | None = None
    model: ModelName | None = None


class VectorOptions(RequestModel):
    """The model of the vectors, and how they are written."""

    model: ModelName | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: (
        Annotated[int, Field(ge=1, description="keep this many numbers of each vector, rescaled")] | None
    ) = None
    dtype: Annotated[
        Literal["float32", "float16"], Field(description="of the numbers, in base64 and .npy files")
    ] = "float32"


class BulkOptions(VectorOptions):
    """The query of a bulk request."""

    on_error: Annotated[
        Literal["fail", "skip"],
        Field(description="whether a refused item fails the request, or only has no vector"),
    ] = "fail"


class EmbeddingsRequest(VectorOptions):
    """Texts and images to embed, in the form of OpenAI's API."""

    input: ItemOrItems
    user: Annotated[str, Field(max_length=512, description="sent by OpenAI's clients; not used")] | None = (
        None
    )


class RankRequest(RequestModel):
    """A query, and the candidates to rank by similarity."""

    query: AnyItem
    candidates: Items
    top_k: TopK | None = None
    model: ModelName | None = None


class LabelScore(TypedDict):
    """How well one label fits an image."""

    label: str
    probability: float
    similarity: Annotated[float, Field(description="cosine of the embeddings of the image and the label")]


class Classified(TypedDict):
    """The labels of one image, the likeliest first."""

    index: int
    labels: list[LabelScore]


class ClassifyUsage(TypedDict):
    """The number of items that were encoded."""

    images: int
    texts: int


class ClassifyAnswer(BaseModel):
    """One entry per image, in the order of the request."""

    object: Literal["list"] = "list"
    model: str
    data: list[Classified]
    usage: ClassifyUsage


class Embedding(TypedDict):
    """A vector of unit length."""

    object: NotRequired[Annotated[Literal["embedding"], Field(json_schema_extra={"default": "embedding"})]]
    index: int
    embedding: Annotated[
        list[float] | str | None,
        Field(description="numbers, or base64 of little-endian `dtype`; null: see `error`"),
    ]
    error: NotRequired[
        Annotated[Fault | None, Field(description="why an item of a bulk request has no vector")]
    ]


class EmbeddingsUsage(TypedDict):
    """Tokens of the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """One entry per input, in the order of the request."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: EmbeddingsUsage


class Ranked(TypedDict):
    """A candidate, by its place in the request."""

    index: int
    similarity: float


class RankAnswer(BaseModel):
    """The candidates, the nearest first."""

    object: Literal["list"] = "list"
    model: str
    data: list[Ranked]


class ModelAnswer(BaseModel):
    """A CLIP that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time at which this process began to serve it")
    owned_by: Literal["clipcanvas"] = "clipcanvas"
    status: str = Field(description="ready, loading, unloaded (the next use loads it), or failed")
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
