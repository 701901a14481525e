"""What the service's answers about collections hold, as frozen values."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import Field

from clipcanvas.client.results import _Answer


@dataclass(frozen=True)
class NewImage:
    """An image to add: the image itself, or its vector.

    Args:
        image: a path, the bytes of a file, or a PIL image.
        vector: D numbers of the collection's model, or base64 of little-endian float32.
        id: the image of that id is replaced; without, the id is the hash of the file.
        metadata: texts, numbers, booleans, None, or lists of those.
        source_url: the URL of the image, which is stored and not fetched.
    """

    image: Any = None
    vector: Any = None
    id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    source_url: str | None = None


@dataclass(frozen=True)
class QueryPart:
    """One of text, image (as in `NewImage`), id and vector, and its weight; below 0: away from it."""

    text: str | None = None
    image: Any = None
    id: str | None = None
    vector: Any = None
    weight: float = 1.0


class CollectionCard(_Answer):
    """What a collection is."""

    name: str
    model: str
    dimension: int
    count: int  # images in it
    quantization: str = "q8"
    m: int = 16
    ef_construction: int = 200
    thumbnails: bool = False
    created_at: datetime | None = None


class CollectionCards(_Answer):
    """The caller's collections, by name."""

    data: tuple[CollectionCard, ...]


class Added(_Answer):
    """An image that is in the collection now."""

    id: str
    created: bool  # False: it replaced the image of that id


class AddedImages(_Answer):
    """The answer to `add`: one entry for each image, in the order sent."""

    model: str
    data: tuple[Added, ...]


class CollectionImage(_Answer):
    """What is kept of an image."""

    id: str
    metadata: dict[str, Any] = Field(default_factory=dict)
    source_url: str | None = None
    thumbnail_url: str | None = None
    vector: tuple[float, ...] | None = None


class ImagePage(_Answer):
    """Some images, by id; pass `last_id` as `after` for the next ones."""

    data: tuple[CollectionImage, ...]
    has_more: bool = False
    last_id: str | None = None


class Hit(CollectionImage):
    """An image that was found."""

    similarity: float  # cosine, -1 … 1


class Hits(_Answer):
    """The answer to `search`, the nearest first."""

    model: str
    data: tuple[Hit, ...]


class QueryHits(_Answer):
    """What one of several queries found."""

    index: int
    data: tuple[Hit, ...]


class HitsOfQueries(_Answer):
    """The answer to `search_all`: one entry for each query, in the order sent."""

    model: str
    data: tuple[QueryHits, ...]


class Neighbor(_Answer):
    """Another image that is nearly the same."""

    id: str
    similarity: float


class ImageDuplicates(_Answer):
    """An image, and those after it in the order of ids that are nearly the same."""

    id: str
    duplicates: tuple[Neighbor, ...]


class DuplicatesPage(_Answer):
    """Pairs found from some images; pass `last_id` as `after` for the next ones."""

    data: tuple[ImageDuplicates, ...]
    has_more: bool = False
    last_id: str | None = None


class LabelExample(_Answer):
    """An image that a label fits well."""

    id: str
    probability: float
    similarity: float


class LabelCount(_Answer):
    """How many images a label fits best, and some that it fits most."""

    label: str
    count: int
    examples: tuple[LabelExample, ...] = ()


class LabelCounts(_Answer):
    """The answer to `classify` of a collection, in the order of the labels."""

    model: str
    data: tuple[LabelCount, ...]
    images: int
    unlabeled: int = 0


class Skipped(_Answer):
    """An image that could not be embedded anew, and why."""

    id: str
    code: str
    detail: str


class Refusal(_Answer):
    """An image that an index job refused."""

    id: str
    code: str
    detail: str


class IndexReport(_Answer):
    """The report of an index job."""

    collection: str
    added: int
    replaced: int
    known: int  # already
    refused: int
    refusals: tuple[Refusal, ...]  # the first 10,000


class ReindexPage(_Answer):
    """What one call of `reindex` did; pass `last_id` as `after` for the next."""

    added: int
    skipped: tuple[Skipped, ...] = ()
    has_more: bool = False
    last_id: str | None = None
