"""The five files of a min-dalle: three pickles to convert and a tokenizer, from a folder or from the hub."""

import shutil
import tempfile
from pathlib import Path
from typing import cast

from models.catalog import Entry, hub
from models.catalog.check import check_min_dalle, check_vqgan
from models.catalog.download import Absent, Progress
from models.catalog.sandbox import How, run
from models.networks.min_dalle import DECODER, DETOKER, ENCODER, FILES, MERGES, VOCABULARY, Card
from models.networks.min_dalle.bpe import read_merges, read_vocabulary
from models.weights_io import WeightsMissing, WeightsUnusable, read_sums, sha256_of, write_sums
from models.weights_io.card import Download

_KINDS = {ENCODER: "DalleBartEncoder", DECODER: "DalleBartDecoder", DETOKER: "VQModel"}


def convert_folder(source: Path, entry: Entry, tell: Progress, how: How = How()) -> dict[str, str]:
    """Make a model of the files in a folder: of a copy of the repository, or of min-dalle's own.

    min-dalle keeps its files without their suffix in `pretrained/dalle_bart_mini` (or `_mega`), and that of
    the VQGAN beside it, in `pretrained/vqgan`.

    Raises:
        models.weights_io.WeightsError: a file is not there, cannot be read, or is not what the card says.
    """
    card = cast(Card, entry.card)
    found: dict[str, Path] = {}
    for file, theirs in FILES.items():
        plain = theirs.format("")
        places = (source / theirs.format(card.suffix), source / plain, source.parent / "vqgan" / plain)
        here = next((place for place in places if place.is_file()), None)
        if here is None:
            raise WeightsMissing(
                f"{source} is no folder with {' or '.join({place.name: None for place in places})}"
            )
        found[file] = here
    with tempfile.TemporaryDirectory(dir=entry.folder, prefix=".convert-") as made:
        for file, path in found.items():
            _make(path, Path(made) / file, card, tell, how)
        _keep(Path(made), entry.folder)
    return {"kind": entry.kind}


def pull_files(entry: Entry, staging: Path, tell: Progress, how: How) -> Download:
    """Fetch what is missing of a model, a file after the other; returns the place that has them.

    Raises:
        models.catalog.download.TransferFailed
        models.weights_io.WeightsError: a file is not what it should be.
    """
    card, reasons = cast(Card, entry.card), []
    for place in entry.downloads:
        assert place.hub is not None
        try:
            for file, theirs in FILES.items():
                if not (entry.folder / file).is_file():
                    name = theirs.format(card.suffix)
                    hub.fetch(place.hub, name, staging, None, tell)
                    (staging / "made").mkdir(exist_ok=True)
                    _make(staging / name, staging / "made" / file, card, tell, how)
                    _keep(staging / "made", entry.folder)
                    (staging / name).unlink()
            return place
        except Absent as error:
            reasons.append(str(error))
    raise Absent("; ".join(reasons))


def _make(source: Path, new: Path, card: Card, tell: Progress, how: How) -> None:
    """Make a file of ours, named as it is to be, and check it."""
    if new.name == VOCABULARY:
        read_vocabulary(source, card.vocabulary)
        shutil.copyfile(source, new)
        return
    if new.name == MERGES:
        read_merges(source)
        shutil.copyfile(source, new)
        return
    report = run(source, new, tell, how)
    if report["kind"] != _KINDS[new.name]:
        raise WeightsUnusable(f"{source} is a {report['kind']}, and a {_KINDS[new.name]} was expected")
    if new.name == DETOKER:
        codes = (int(report["n_embed"]), int(report["embed_dim"]))
        check_vqgan(new, card.config, "VQModel", codes, source)
    else:
        check_min_dalle(new, card, report["kind"], source)


def _keep(made: Path, folder: Path) -> None:
    """Put what was made into the model's folder, and note what it is."""
    sums = {path.name: sha256_of(path) for path in made.iterdir()}
    for name in sums:
        (made / name).replace(folder / name)
    write_sums(folder, read_sums(folder) | sums)
