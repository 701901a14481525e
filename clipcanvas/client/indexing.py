"""Pictures of a folder go into a collection: in batches, past those that cannot be read, and resumable."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipcanvas.client import collection_endpoints
from clipcanvas.client.batches import PIECE_ITEMS, Batch
from clipcanvas.client.collection import Collection
from clipcanvas.client.collection_results import Added, NewImage


@dataclass
class Outcome:
    """What became of the pictures of a folder."""

    added: int = 0
    known: int = 0  # were there already
    failed: dict[str, str] = field(default_factory=dict)  # by their ids, and why


def find_pictures(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """The pictures below a folder, in order; hidden files and folders are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def index_folder(
    collection: Collection,
    folder: Path,
    paths: Sequence[Path],
    *,
    again: bool = False,
    batch: int = PIECE_ITEMS,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Add pictures under their paths in the folder, `a/b.jpg`, with their metadata.

    The metadata of `a/b.jpg` are what a file `a/b.json` beside it holds, if it is there.

    Args:
        again: also those that the collection has already.
        progress: is told how many are done after each batch.
    """
    ids = {path: path.relative_to(folder).as_posix() for path in paths}
    known = set() if again else {image.id for image in collection.every_image()}
    missing = [path for path in paths if ids[path] not in known]
    n_known = len(paths) - len(missing)
    progress(n_known)
    adding = Batch[Added](
        missing,
        lambda path: NewImage(path.read_bytes(), id=ids[path], metadata=_metadata(path)),
        lambda images: collection_endpoints.add(collection.name, images),
        most=batch,
        progress=lambda done: progress(n_known + done),
    )
    became = collection._client._send_all(adding)
    failed = {ids[missing[place]]: why for place, why in became.failed.items()}
    return Outcome(added=len(missing) - len(failed), known=n_known, failed=failed)


def _metadata(path: Path) -> dict[str, object]:
    try:
        text = path.with_suffix(".json").read_text("utf-8")
    except FileNotFoundError:
        return {}
    metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise ValueError(f"{path.with_suffix('.json').name} holds no object")
    return metadata
