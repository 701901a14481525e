"""What the answers about collections look like on the wire, as pydantic models."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from storage.collections.collection import Quantization


class CollectionAnswer(BaseModel):
    """A collection."""

    name: str
    object: Literal["collection"] = "collection"
    model: str
    dimension: int
    count: int = Field(description="images in it")
    quantization: Quantization
    m: int
    ef_construction: int
    thumbnails: bool
    created_at: datetime


class CollectionList(BaseModel):
    """The caller's collections, by name."""

    object: Literal["list"] = "list"
    data: list[CollectionAnswer]


class Added(BaseModel):
    """An image that is in the collection now."""

    id: str
    created: bool = Field(description="false: it replaced the image of that id")


class AddAnswer(BaseModel):
    """One entry per image, in the request's order."""

    object: Literal["list"] = "list"
    model: str
    data: list[Added]


class ImageAnswer(BaseModel):
    """What is kept of an image."""

    id: str
    object: Literal["image"] = "image"
    metadata: dict[str, Any]
    source_url: str | None
    thumbnail_url: str | None


class ImageWithVector(ImageAnswer):
    """The same with its vector, as the collection keeps it."""

    vector: list[float] | None = Field(None, description="if ?vector=true")


class ImageList(BaseModel):
    """Images, by id."""

    object: Literal["list"] = "list"
    data: list[ImageAnswer]
    has_more: bool
    last_id: str | None


class HitAnswer(BaseModel):
    """An image that was found."""

    id: str
    similarity: float = Field(description="cosine of the query's and the image's vectors")
    metadata: dict[str, Any]
    source_url: str | None
    thumbnail_url: str | None


class QueryHits(BaseModel):
    """What one of several queries found."""

    index: int
    data: list[HitAnswer]


class SearchAnswer(BaseModel):
    """What was found, the nearest first; for `queries`, an entry for each of them."""

    object: Literal["list"] = "list"
    model: str
    data: list[HitAnswer] | list[QueryHits]


class Neighbor(BaseModel):
    """Another image that is nearly the same."""

    id: str
    similarity: float


class DuplicatesOfImage(BaseModel):
    """An image, and those after it in the order of ids that are nearly the same."""

    id: str
    duplicates: list[Neighbor]


class DuplicatesAnswer(BaseModel):
    """Pairs of one page of images; each pair is told once."""

    object: Literal["list"] = "list"
    data: list[DuplicatesOfImage]
    has_more: bool
    last_id: str | None


class LabelExample(BaseModel):
    """An image that a label fits well."""

    id: str
    probability: float
    similarity: float


class LabelCount(BaseModel):
    """How many images a label fits best, and some that it fits most."""

    label: str
    count: int
    examples: list[LabelExample]


class ClassifyCollectionAnswer(BaseModel):
    """The labels in the request's order."""

    object: Literal["list"] = "list"
    model: str
    data: list[LabelCount]
    images: int
    unlabeled: int = Field(description="images whose best label was less likely than min_probability")


class Skipped(BaseModel):
    """An image that could not be embedded anew, and why."""

    id: str
    code: str
    detail: str


class ReindexAnswer(BaseModel):
    """What this call did; call again with `after: last_id` while there is more."""

    object: Literal["reindex"] = "reindex"
    added: int
    skipped: list[Skipped]
    has_more: bool
    last_id: str | None
