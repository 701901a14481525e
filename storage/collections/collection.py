"""What a collection of images is, what is kept of its images, and how one is searched."""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Quantization = Literal["q8", "none", "binary"]
QUANTIZATIONS: dict[Quantization, str] = {"q8": "Q8", "none": "NOQUANT", "binary": "BIN"}
"""The words of Redis for them."""

FOLDER_PREFIX = "collection_"
"""Of the folders in the store that collections have."""

# attributes beside the metadata; no name in a filter can have a $
_URL, _THUMBNAIL = "$url", "$thumbnail"


class CollectionMissing(LookupError):
    """No collection has that name, or it is another tenant's."""


class CollectionFull(RuntimeError):
    """The collection holds as many images as it may."""


class FilterRefused(ValueError):
    """A filter that is no expression."""


@dataclass(frozen=True)
class Collection:
    """What a collection is."""

    tenant: str
    name: str
    model: str
    dimension: int  # D
    quantization: Quantization = "q8"
    m: int = 16  # links of a vector in each layer of the index
    ef_construction: int = 200  # candidates that are looked at when a vector is linked
    thumbnails: bool = False  # whether small images are kept
    uid: str = field(default_factory=lambda: secrets.token_hex(12))  # no other ever has it
    created_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    count: int = 0  # images

    @property
    def created_at(self) -> datetime:
        return datetime.fromtimestamp(self.created_ms / 1000, UTC)

    @property
    def folder(self) -> str:
        """Where in the store its thumbnails are."""
        return f"{FOLDER_PREFIX}{self.uid}"


@dataclass(frozen=True)
class Image:
    """What is kept of an image beside its vector."""

    id: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source_url: str | None = None
    thumbnail: bool = False


@dataclass(frozen=True)
class Hit:
    """An image that was found."""

    image: Image
    similarity: float  # cosine; an estimate from the share of equal signs if the quantization is binary


@dataclass(frozen=True)
class Search:
    """How to look. Without `exact` the index is asked, which may miss some of the nearest.

    Args:
        filter: an expression over the metadata, as `VSIM … FILTER` takes it.
        effort: how many candidates are looked at; never fewer than `top_k`.
        filter_effort: how many are looked at to find some that pass the filter.
        exact: look at all.
    """

    top_k: int
    filter: str | None = None
    effort: int | None = None
    filter_effort: int | None = None
    exact: bool = False


def to_hash(collection: Collection) -> dict[str, str | int]:
    """Its record but for `uid` and `count`."""
    return {
        "tenant": collection.tenant,
        "name": collection.name,
        "model": collection.model,
        "dimension": collection.dimension,
        "quantization": QUANTIZATIONS[collection.quantization],
        "m": collection.m,
        "ef_construction": collection.ef_construction,
        "thumbnails": int(collection.thumbnails),
        "created_ms": collection.created_ms,
    }


def from_hash(fields: Mapping[bytes, bytes], count: int = 0) -> Collection:
    """The collection that a record describes."""
    known = {name.decode(): value.decode() for name, value in fields.items()}
    [quantization] = [name for name, word in QUANTIZATIONS.items() if word == known["quantization"]]
    return Collection(
        tenant=known["tenant"],
        name=known["name"],
        model=known["model"],
        dimension=int(known["dimension"]),
        quantization=quantization,
        m=int(known["m"]),
        ef_construction=int(known["ef_construction"]),
        thumbnails=known["thumbnails"] == "1",
        uid=known["uid"],
        created_ms=int(known["created_ms"]),
        count=count,
    )


def attributes_of(image: Image) -> str:
    """All of an image but its id and vector, as JSON."""
    kept = {**image.metadata}
    if image.source_url is not None:
        kept[_URL] = image.source_url
    if image.thumbnail:
        kept[_THUMBNAIL] = 1
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))  # the filter reads no \u escapes


def image_of(image_id: str, attributes: bytes) -> Image:
    """The image that those attributes describe."""
    kept = json.loads(attributes or b"{}")
    return Image(
        image_id, source_url=kept.pop(_URL, None), thumbnail=bool(kept.pop(_THUMBNAIL, 0)), metadata=kept
    )
