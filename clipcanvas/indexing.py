"""Pictures of a folder go into a collection: in batches, past those that cannot be read, and resumable."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipcanvas.collection import Collection
from clipcanvas.collection_results import NewImage
from clipcanvas.errors import ApiError

MAX_BATCH_BYTES = 16 * 2**20  # of files; base64 makes a third more of them, and a request has at most 32 MiB
_PLACE = re.compile(r"#/images/(\d+)(/|$)")


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
    batch: int = 32,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Add pictures under their paths in the folder, `a/b.jpg`, with their metadata.

    The metadata of `a/b.jpg` are what a file `a/b.json` beside it holds, if it is there.

    Args:
        again: also those that the collection has already.
        progress: is told how many are done after each batch.
    """
    outcome = Outcome()
    ids = {path: path.relative_to(folder).as_posix() for path in paths}
    known = set() if again else {image.id for image in collection.every_image()}
    missing = [path for path in paths if ids[path] not in known]
    outcome.known = len(paths) - len(missing)
    progress(outcome.known)
    for some in _batches(missing, batch):
        images: list[NewImage] = []
        for path in some:
            try:
                images.append(NewImage(path.read_bytes(), id=ids[path], metadata=_metadata(path)))
            except (OSError, ValueError) as error:
                outcome.failed[ids[path]] = str(error)
        _add(collection, images, outcome)
        progress(outcome.known + outcome.added + len(outcome.failed))
    return outcome


def _add(collection: Collection, images: list[NewImage], outcome: Outcome) -> None:
    """Add what can be added: the service says which pictures it refuses, the others are sent again."""
    while images:
        try:
            collection.add(images)
        except ApiError as error:
            refused = _refused(error, images)
            if not refused:
                raise
            outcome.failed |= {str(images[index].id): why for index, why in refused.items()}
            images = [image for index, image in enumerate(images) if index not in refused]
        else:
            outcome.added += len(images)
            return


def _refused(error: ApiError, images: Sequence[NewImage]) -> dict[int, str]:
    """Which images an error is about, and what it says of each; none if it is about something else."""
    if error.code == "body_too_large" and len(images) == 1:
        return {0: error.detail}
    if error.status not in (413, 415, 422):
        return {}
    places = ((_PLACE.match(fault.get("pointer", "")), fault.get("detail", "")) for fault in error.errors)
    return {int(match[1]): str(detail) for match, detail in places if match and int(match[1]) < len(images)}


def _batches(paths: Sequence[Path], most: int) -> Iterator[list[Path]]:
    some: list[Path] = []
    size = 0
    for path in paths:
        bytes_ = path.stat().st_size if path.exists() else 0
        if some and (len(some) == most or size + bytes_ > MAX_BATCH_BYTES):
            yield some
            some, size = [], 0
        some.append(path)
        size += bytes_
    if some:
        yield some


def _metadata(path: Path) -> dict[str, object]:
    try:
        text = path.with_suffix(".json").read_text("utf-8")
    except FileNotFoundError:
        return {}
    metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise ValueError(f"{path.with_suffix('.json').name} holds no object")
    return metadata
