"""What requests about collections may say on the wire, as pydantic models."""

import base64
import binascii
from collections.abc import Iterator
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from app.http.fields import TEXT, Label, ModelName, RequestModel, Template, listed
from app.http.image_input import IMAGE, ImageData
from storage.collections.collection import Quantization
from storage.collections.image_fields import (
    MAX_ID_CHARS,
    MAX_NAMES,
    METADATA_NAME,
    MetadataRefused,
    check_metadata,
    is_image_id,
)

COLLECTION_NAME = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

VECTOR = {
    "description": "numbers, or base64 of little-endian float32; brought to unit length",
    "anyOf": [{"type": "array", "items": {"type": "number"}, "minItems": 1}, TEXT],
}
METADATA = {
    "type": "object",
    "description": "texts, numbers, true, false, null, or lists of those; filters know them as .name",
    "additionalProperties": True,
    "propertyNames": {"pattern": f"^{METADATA_NAME.pattern}$"},
    "maxProperties": MAX_NAMES,
}


def _vector(value: Any) -> NDArray[np.float32]:
    try:
        if isinstance(value, str):
            row = np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float64)
        elif isinstance(value, list) and all(type(item) in (int, float) for item in value):
            row = np.array(value, np.float64)
        else:
            raise ValueError
    except (binascii.Error, ValueError, OverflowError):
        raise PydanticCustomError(
            "vector_type", "a vector is a list of numbers, or base64 of little-endian float32"
        ) from None
    largest = float(np.abs(row).max(initial=0))
    if not np.isfinite(largest) or largest < 1e-30:
        raise PydanticCustomError("vector_value", "a vector has finite numbers, not all of them zero")
    row = row / largest  # else the squares could overflow
    return (row / np.linalg.norm(row)).astype(np.float32)


def _metadata(value: Any) -> dict[str, Any]:
    try:
        return check_metadata(value)
    except MetadataRefused as refused:
        raise PydanticCustomError(refused.code, str(refused)) from None


def _image_id(value: Any) -> str:
    if not isinstance(value, str) or not is_image_id(value):
        raise PydanticCustomError(
            "image_id",
            "an id has 1 to 256 printable characters, and no empty, . or .. part between slashes",
        )
    return value


Vector = Annotated[NDArray[np.float32], PlainValidator(_vector), WithJsonSchema(VECTOR)]
"""(D,) of unit length."""
Metadata = Annotated[dict[str, Any], PlainValidator(_metadata), WithJsonSchema(METADATA)]
ImageId = Annotated[
    str,
    PlainValidator(_image_id),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS, "examples": ["cats/7.jpg"]}),
]
SourceUrl = Annotated[
    str,
    Field(
        max_length=2048, pattern="^https?://[!-~]+$", description="where the picture is; it is not fetched"
    ),
]
Filter = Annotated[
    str, Field(min_length=1, description='over the metadata, such as .year > 1980 and .kind == "cat"')
]
ModelOfCollection = Annotated[
    str,
    Field(min_length=1, max_length=200, description="if said, it must be the collection's own model"),
]


class CollectionRequest(RequestModel):
    """What a collection is bound to; what is not said is as it is, or default in a new one."""

    model: ModelName | None = None
    quantization: (
        Annotated[Quantization, Field(description="q8: 1 byte a number; none: 4; binary: 1 bit; default q8")]
        | None
    ) = None
    m: (
        Annotated[int, Field(ge=4, le=512, description="links of a vector in the index; default 16")] | None
    ) = None
    ef_construction: (
        Annotated[int, Field(ge=1, le=10_000, description="candidates looked at for them; default 200")]
        | None
    ) = None
    thumbnails: Annotated[bool, Field(description="keep small pictures; default false")] | None = None


class NewImage(RequestModel):
    """A picture, or its vector, with what is kept of it."""

    image: ImageData | None = None
    vector: Vector | None = None
    id: ImageId | None = None
    metadata: Annotated[Metadata, Field(default_factory=dict)]
    source_url: SourceUrl | None = None

    @model_validator(mode="after")
    def _image_or_vector(self) -> Self:
        if (self.image is None) == (self.vector is None):
            raise ValueError("say either an image or a vector")
        return self


class AddRequest(RequestModel):
    """Images to add."""

    images: Annotated[list[NewImage], Field(min_length=1)]
    model: ModelOfCollection | None = None


class DescribeRequest(RequestModel):
    """What is kept of an image; what is not said stays."""

    metadata: Metadata | None = None
    source_url: SourceUrl | None = None


class QueryPart(RequestModel):
    """A text, a picture, an image of the collection or a vector, and how much it counts."""

    text: Annotated[str, Field(min_length=1)] | None = None
    image: ImageData | None = None
    id: ImageId | None = None
    vector: Vector | None = None
    weight: Annotated[float, Field(ge=-100, le=100, description="below 0: away from it")] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _a_string_is_a_text(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if sum(value is not None for value in (self.text, self.image, self.id, self.vector)) != 1:
            raise ValueError("say one of text, image, id and vector")
        return self


_WEIGHT = {"type": "number", "minimum": -100, "maximum": 100, "default": 1}
_PARTS = [
    TEXT,
    *(
        {
            "type": "object",
            "properties": {name: kind, "weight": _WEIGHT},
            "required": [name],
            "additionalProperties": False,
        }
        for name, kind in (("text", TEXT), ("image", IMAGE), ("id", TEXT), ("vector", VECTOR))
    ),
]
_QUERY: dict[str, Any] = {
    "description": "a text, a picture, an id, a vector, or a list of them whose weighted sum is looked for",
    "anyOf": [*_PARTS, {"type": "array", "items": {"anyOf": _PARTS}, "minItems": 1}],
}


Query = Annotated[list[QueryPart], Field(min_length=1), BeforeValidator(listed), WithJsonSchema(_QUERY)]


class SearchRequest(RequestModel):
    """One query or several, and how to look."""

    query: Query | None = None
    queries: Annotated[list[Query], Field(min_length=1)] | None = None
    top_k: Annotated[int, Field(ge=1, description="images found at most")] = 10
    filter: Filter | None = None
    min_similarity: Annotated[float, Field(ge=-1, le=1)] | None = None
    effort: (
        Annotated[int, Field(ge=1, description="candidates that the index looks at; more find more")] | None
    ) = None
    exact: Annotated[bool, Field(description="look at every image")] = False
    model: ModelOfCollection | None = None

    @model_validator(mode="after")
    def _query_or_queries(self) -> Self:
        if (self.query is None) == (self.queries is None):
            raise ValueError("say either query or queries")
        return self

    def places(self) -> Iterator[tuple[str, list[QueryPart]]]:
        """Each query, and where it is in the request."""
        if self.query is not None:
            yield "#/query", self.query
        for index, query in enumerate(self.queries or ()):
            yield f"#/queries/{index}", query


class ClassifyCollectionRequest(RequestModel):
    """Labels for all images of a collection."""

    labels: Annotated[list[Label], Field(min_length=1)]
    templates: Annotated[list[Template], Field(min_length=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=100, description="examples of each label")] = 3
    min_probability: Annotated[
        float, Field(ge=0, le=1, description="images whose best label is less likely get none")
    ] = 0.0


class ReindexRequest(RequestModel):
    """Where images come from whose thumbnails are to be embedded anew."""

    source: Annotated[str, Field(pattern=COLLECTION_NAME, description="a collection that keeps thumbnails")]
    after: ImageId | None = None
    limit: Annotated[int, Field(ge=1, description="images in this call")] = 64
