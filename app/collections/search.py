"""How collections are searched: queries become vectors, and what the vector sets find becomes answers."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from app.clip.batched_clip import Timings, check_labels, embed
from app.clip.registry import Clips
from app.collections.requests import ClassifyCollectionRequest, QueryPart, SearchRequest
from app.collections.responses import (
    ClassifyCollectionAnswer,
    DuplicatesAnswer,
    DuplicatesOfImage,
    HitAnswer,
    LabelCount,
    LabelExample,
    Neighbor,
)
from app.collections.service import check_vectors, clip_of, view_image
from app.collections.transfer import pages
from app.dependencies import Resources
from app.http.body import InvalidBody, check_limit
from app.http.errors import Answer, Fault, HttpProblem
from models.clip.zero_shot import probabilities, similarity
from storage.collections import filter_search
from storage.collections.collection import Collection, FilterRefused, Hit, Search
from storage.collections.vector_sets import Rows

MAX_NEIGHBORS = 100  # of one image that are told as its duplicates


class InvalidFilter(HttpProblem):
    """The filter of a search is not a valid expression."""

    answer = Answer(422, "invalid_filter", "Invalid filter")

    def __init__(self, refused: FilterRefused) -> None:
        detail = str(refused)
        super().__init__(detail, [Fault(pointer="#/filter", code=self.answer.code, detail=detail)])


async def search(
    collection: Collection, asked: SearchRequest, resources: Resources, clips: Clips, timings: Timings
) -> list[list[HitAnswer]]:
    """What each query finds.

    Raises:
        app.http.body.InvalidBody, app.http.body.LimitExceeded, app.http.image_input.ImageRefused
        InvalidFilter, storage.collections.collection.CollectionMissing
    """
    settings = resources.settings
    queries = [*asked.places()]
    check_limit("#/queries", len(queries), settings.max_queries, "queries")
    check_limit("#/top_k", asked.top_k, settings.max_top_k, "images found (top_k)")
    check_limit("#/effort", asked.effort or 0, settings.max_effort, "candidates (effort)")
    check_limit("#/filter", len(asked.filter or ""), settings.max_filter_chars, "characters in a filter")
    for pointer, parts in queries:
        check_limit(pointer, len(parts), settings.max_query_parts, "parts of a query")
    if asked.exact:
        check_limit("#/exact", collection.count, settings.max_scanned_images, "images to look at exactly")
    rows = await _query_rows(collection, queries, resources, clips, timings)
    # an image that is part of a query is not an answer to it
    own = [{part.id for part in parts if part.id is not None} for _, parts in queries]
    how = Search(
        top_k=asked.top_k + max(map(len, own)),
        filter=asked.filter,
        effort=asked.effort,
        filter_effort=max(settings.vector_filter_effort, 100 * asked.top_k),
        exact=asked.exact,
    )
    with resources.metrics.search_seconds.time():
        try:
            most = settings.max_scanned_images
            found = await resources.ask_vectors(
                filter_search.search, resources.vectors, collection, rows, how, most_scanned=most
            )
        except FilterRefused as error:
            raise InvalidFilter(error) from error
    least = -1.0 if asked.min_similarity is None else asked.min_similarity
    return [
        [
            _view_hit(collection, hit)
            for hit in hits
            if hit.image.id not in excluded and hit.similarity >= least
        ][: asked.top_k]
        for hits, excluded in zip(found, own, strict=True)
    ]


async def duplicates(
    collection: Collection, threshold: float, limit: int, after: str | None, resources: Resources
) -> DuplicatesAnswer:
    """Pairs of images that are at least so near, looked for from one page of images."""
    ids = await resources.ask_vectors(resources.vectors.ids, collection, limit + 1, after)
    page = ids[:limit]
    near = await resources.ask_vectors(
        resources.vectors.neighbors, collection, page, threshold, MAX_NEIGHBORS
    )
    data = []
    for image_id, others in zip(page, near, strict=True):
        later = [
            Neighbor(id=other, similarity=cosine)
            for other, cosine in others
            if cosine >= threshold and other.encode() > image_id.encode()
        ]
        if later:
            data.append(DuplicatesOfImage(id=image_id, duplicates=later))
    return DuplicatesAnswer(data=data, has_more=len(ids) > limit, last_id=page[-1] if page else None)


async def classify(
    collection: Collection,
    asked: ClassifyCollectionRequest,
    resources: Resources,
    clips: Clips,
    timings: Timings,
) -> ClassifyCollectionAnswer:
    """Which label fits each image best: every vector is read, as it is kept.

    Raises:
        app.http.body.LimitExceeded: too many labels, texts or images.
    """
    settings = resources.settings
    check_limit("#", collection.count, settings.max_scanned_images, "images to classify")
    clip = clip_of(collection, clips)
    templates = clip.templates if asked.templates is None else tuple(asked.templates)
    check_labels(asked.labels, templates, settings)
    labels = await clip.embed_labels(asked.labels, templates, timings)
    tally = _Tally(len(asked.labels), asked.top_k, asked.min_probability)
    async for images, rows in pages(collection, resources):
        cosines = similarity(rows, labels)
        chances = probabilities(cosines, clip.encoder.logit_scale, clip.encoder.logit_bias)
        tally.add([image.id for image in images], cosines, chances)
    data = [
        LabelCount(label=label, count=int(tally.counts[index]), examples=tally.examples(index))
        for index, label in enumerate(asked.labels)
    ]
    return ClassifyCollectionAnswer(
        model=collection.model,
        data=data,
        images=tally.images,
        unlabeled=tally.images - int(tally.counts.sum()),
    )


class _Tally:
    """How many images each label fits best, and the `top_k` of them that it fits most."""

    def __init__(self, labels: int, top_k: int, min_probability: float) -> None:
        self.counts = np.zeros(labels, np.int64)
        self.images = 0
        self._top_k = top_k
        self._min_probability = min_probability
        self._best: list[list[tuple[float, float, str]]] = [[] for _ in range(labels)]

    def add(self, ids: Sequence[str], cosines: NDArray[np.float32], chances: NDArray[np.float32]) -> None:
        """Take account of N images, given (N, L) cosines and probabilities."""
        self.images += len(ids)
        labels = cosines.argmax(axis=1)  # probabilities may be equal where cosines are not
        for row, (image_id, label) in enumerate(zip(ids, labels.tolist(), strict=True)):
            chance, cosine = float(chances[row, label]), float(cosines[row, label])
            if chance >= self._min_probability:
                self.counts[label] += 1
                self._best[label].append((chance, cosine, image_id))
        for best in self._best:
            best.sort(key=lambda item: (-item[0], -item[1], item[2]))
            del best[self._top_k :]

    def examples(self, label: int) -> list[LabelExample]:
        """Of one label, the likeliest first."""
        return [
            LabelExample(id=image_id, probability=chance, similarity=cosine)
            for chance, cosine, image_id in self._best[label]
        ]


async def _query_rows(
    collection: Collection,
    queries: Sequence[tuple[str, Sequence[QueryPart]]],
    resources: Resources,
    clips: Clips,
    timings: Timings,
) -> Rows:
    """Each query as one vector, the weighted sum of its parts: (Q, D) of unit length."""
    parts = {f"{at}/{i}": part for at, query in queries for i, part in enumerate(query)}
    vectors: dict[str, Rows] = {at: part.vector for at, part in parts.items() if part.vector is not None}
    check_vectors(vectors, collection)
    vectors |= await _kept_vectors(collection, parts, resources)
    items = {at: part for at, part in parts.items() if part.text is not None or part.image is not None}
    if items:
        rows, _ = await embed(clip_of(collection, clips), items, resources.settings, timings)
        vectors |= dict(zip(items, rows, strict=True))
    sums: list[Rows] = []
    for at, query in queries:
        weights = np.array([part.weight for part in query])
        total = weights @ np.stack([vectors[f"{at}/{i}"] for i in range(len(query))])
        length = float(np.linalg.norm(total))
        if length < 1e-6:
            detail = "the parts of the query cancel out: nothing is left to look for"
            raise InvalidBody.at(at, "empty_query", detail)
        sums.append((total / length).astype(np.float32))
    return np.stack(sums)


async def _kept_vectors(
    collection: Collection, parts: Mapping[str, QueryPart], resources: Resources
) -> dict[str, Rows]:
    asked = {at: part.id for at, part in parts.items() if part.id is not None}
    found = await resources.ask_vectors(resources.vectors.vectors, collection, [*asked.values()])
    faults = [
        Fault(pointer=f"{at}/id", code="image_not_found", detail="the collection has no image of that id")
        for at, row in zip(asked, found, strict=True)
        if row is None
    ]
    if faults:
        raise InvalidBody(faults)
    return {at: row for at, row in zip(asked, found, strict=True) if row is not None}


def _view_hit(collection: Collection, hit: Hit) -> HitAnswer:
    image = view_image(collection, hit.image).model_dump(exclude={"object"})
    return HitAnswer(**image, similarity=hit.similarity)
