"""The files of an unCLIP, in diffusers' layout: from a folder or from the hub. A pickle is never taken."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

from models.catalog import Entry, hub
from models.catalog.clip_files import is_safetensors
from models.catalog.download import Absent, Progress
from models.networks.unclip import INDEX, TOKENIZER_TOO, Card
from models.weights_io import WeightsMissing, WeightsUnusable, read_sums, sha256_of, write_sums
from models.weights_io.card import Download


def copy_folder(source: Path, entry: Entry, tell: Progress) -> dict[str, str]:
    """Make a model of a folder in diffusers' layout, with safetensors.

    Raises:
        models.weights_io.WeightsError: a file is not there, or is no safetensors file.
    """
    staging = entry.folder / ".copy"

    def bring(file: str) -> Path:
        if not (source / file).is_file():
            raise WeightsMissing(f"{source} is no folder with {file}")
        tell(f"copying {file}", 0, None)
        (staging / file).parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(source / file, staging / file))

    try:
        _take(entry, bring, WeightsMissing)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return {"kind": entry.kind}


def pull_files(entry: Entry, staging: Path, tell: Progress) -> Download:
    """Fetch what is missing of a model, a file after the other; returns the place that has them.

    Raises:
        models.catalog.download.TransferFailed
        models.weights_io.WeightsError: a file is not what it should be.
    """
    reasons = []
    for place in entry.downloads:
        repository = place.hub
        assert repository is not None

        def bring(file: str, repository: str = repository) -> Path:
            hub.fetch(repository, file, staging, None, tell)
            return staging / file

        try:
            _take(entry, bring, Absent)
            return place
        except Absent as error:
            reasons.append(str(error))
    raise Absent("; ".join(reasons))


def _take(entry: Entry, bring: Callable[[str], Path], absent: type[Exception]) -> None:
    """Put the files that are not here into the model's folder, and note what each is."""
    *files, index = cast(Card, entry.card).files
    assert index == INDEX
    for file in (*files, *TOKENIZER_TOO, index):  # last, because it says that all is there
        target = entry.folder / file
        if target.is_file():
            continue
        try:
            new = bring(file)
        except absent:
            if file in TOKENIZER_TOO:
                continue
            raise
        if file.endswith(".safetensors") and not is_safetensors(new):
            raise WeightsUnusable(f"{new} cannot be read as safetensors")
        sha256 = sha256_of(new)
        target.parent.mkdir(parents=True, exist_ok=True)
        new.replace(target)
        write_sums(target.parent, read_sums(target.parent) | {target.name: sha256})
