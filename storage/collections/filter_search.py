"""How a collection is searched with a filter: by its index, or by looking at all where few images pass."""

from dataclasses import replace

from storage.collections.collection import Collection, Hit, Search
from storage.collections.vector_sets import Rows, VectorSets

ENOUGH = 100  # images that a short look must find; the nearest of them are then the nearest of all


def search(
    sets: VectorSets, collection: Collection, queries: Rows, how: Search, *, most_scanned: int
) -> list[list[Hit]]:
    """The images nearest to each of (Q, D) queries, as `VectorSets.search` finds them.

    With a filter the index looks at many images for each that passes. Where enough pass, a short look finds
    the right ones. Where few do, it would look at very many and still miss some: then all are looked at.

    Args:
        most_scanned: images of a collection that is looked at whole; in a larger one the index goes on.

    Raises:
        storage.collections.collection.CollectionMissing, storage.collections.collection.FilterRefused
    """
    if how.filter is None or how.exact or how.effort is not None:
        return sets.search(collection, queries, how)
    enough = max(ENOUGH, 2 * how.top_k)
    # Redis counts the steps of its search; at each it looks at about ten images
    quick = replace(how, top_k=enough, effort=enough, filter_effort=2 * enough)
    found = sets.search(collection, queries, quick)
    short = [index for index, hits in enumerate(found) if len(hits) < enough]
    if short:
        thorough = replace(how, exact=collection.count <= most_scanned)
        again = sets.search(collection, queries[short], thorough)
        for index, hits in zip(short, again, strict=True):
            found[index] = hits
    return [hits[: how.top_k] for hits in found]
