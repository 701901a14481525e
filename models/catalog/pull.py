"""Weights of the catalog: fetched, checked, converted if they are pickles, and put where they are loaded.

What has not arrived whole lies in `.pull` in the model's folder: run it again, and it goes on from there.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.catalog import Entry, download, find, hub, min_dalle_files, unclip_files
from models.catalog.clip_files import NotInOpenClip, config_of, downloads_of, fetch_tokenizer, is_safetensors
from models.catalog.convert import put_clip, put_vqgan
from models.catalog.download import Absent, Progress, TransferFailed
from models.catalog.sandbox import How
from models.clip.cards import CLIP_FILE, CONFIG, ClipCard
from models.networks.min_dalle import Card as MinDalleCard
from models.networks.unclip import Card as UnclipCard
from models.weights_io import WeightsError, read_sums, sha256_of, verify, write_sums
from models.weights_io.card import WEIGHTS, Download

_STAGING = ".pull"
_ON_THE_HUB = (CLIP_FILE, "open_clip_pytorch_model.bin")


class Offline(TransferFailed):
    """Nothing is fetched, because somebody said so."""


class NoPlace(TransferFailed):
    """No place is known where the weights can be fetched."""


def pull(
    name: str,
    weights: Path,
    tell: Progress,
    *,
    url: str | None = None,
    sha256: str | None = None,
    offline: bool = False,
    how: How = How(),
) -> dict[str, Any]:
    """Fetch a model's weights, unless they are here; returns what was done.

    Args:
        url: fetch from there instead of where the card says.
        sha256: what that file must have.

    Raises:
        models.catalog.UnknownModel
        TransferFailed: it could not be fetched; what has arrived stays for the next time.
        models.weights_io.WeightsError: what was fetched is not what it should be.
    """
    entry = find(name, weights)
    if entry.is_here:
        return {"name": name, "folder": str(entry.folder), "fetched": False}
    if _copied(entry):
        return {"name": name, "folder": str(entry.folder), "fetched": False}
    if offline:
        raise Offline(
            f"{name} is not here, and --offline, CLIPCANVAS_OFFLINE or HF_HUB_OFFLINE says to fetch nothing"
        )
    if isinstance(entry.card, MinDalleCard | UnclipCard):
        return _pull_files(entry, tell, how, url)
    places = (Download(url=url, sha256=sha256),) if url is not None else _places(entry)
    if not places:
        raise NoPlace(
            f"no place is known that has {name}: name one with --url, or make it of a file that you have "
            f"with `clipcanvas models convert FILE {name}`"
        )
    with _staging(entry.folder) as staging:
        place, file, actual = _fetch_first(places, staging, tell)
        try:
            report = _put(entry, place, file, actual, tell, how)
        except WeightsError as error:  # the file goes; its place is what somebody can do something about
            raise type(error)(str(error).replace(str(file), place.place)) from error
    return {
        "name": name,
        "folder": str(entry.folder),
        "fetched": True,
        "from": place.place,
        "sha256": actual,
        "sha256_was_known": place.sha256 is not None,
        "kind": report["kind"],
    }


def _pull_files(entry: Entry, tell: Progress, how: How, url: str | None) -> dict[str, Any]:
    """As `pull`, of a model that is several files."""
    if url is not None or not entry.downloads:
        raise NoPlace(
            f"{entry.name} is several files, which come from a repository of the hub that its card names; "
            f"of a folder that has them, `clipcanvas models convert FOLDER {entry.name}` makes it"
        )
    with _staging(entry.folder) as staging:
        _check_room(staging, entry.downloads[0])
        try:
            if isinstance(entry.card, UnclipCard):
                place = unclip_files.pull_files(entry, staging, tell)
            else:
                place = min_dalle_files.pull_files(entry, staging, tell, how)
        except WeightsError as error:
            raise type(error)(str(error).replace(str(staging), entry.downloads[0].place)) from error
    return {
        "name": entry.name,
        "folder": str(entry.folder),
        "fetched": True,
        "from": place.place,
        "sha256": None,  # there are several
        "sha256_was_known": False,
        "kind": entry.kind,
    }


def _places(entry: Entry) -> tuple[Download, ...]:
    if entry.downloads or not isinstance(entry.card, ClipCard) or entry.card.scheme != "open_clip":
        return entry.downloads
    try:
        return downloads_of(entry.card)
    except NotInOpenClip as error:
        raise NoPlace(str(error)) from error


def _copied(entry: Entry) -> bool:
    """Whether it is a model that comes with this project, and was copied to another folder of weights."""
    own = Entry(entry.card, WEIGHTS)
    if entry.downloads or entry.weights == WEIGHTS or not own.is_here:
        return False
    for path, sha256 in own.files.items():
        target = entry.weights / path.relative_to(WEIGHTS)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        shutil.copyfile(path, part)
        if sha256 is not None:
            verify(part, sha256)
        part.replace(target)
    return True


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder for what is on its way, for this process alone; it goes when all is in place, or refused."""
    staging = folder / _STAGING
    staging.mkdir(parents=True, exist_ok=True)
    with (staging / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TransferFailed(f"another process is fetching into {folder}: wait for it") from None
        try:
            yield staging
        except WeightsError:
            shutil.rmtree(staging)
            raise
        shutil.rmtree(staging)


def _fetch_first(places: tuple[Download, ...], staging: Path, tell: Progress) -> tuple[Download, Path, str]:
    """The first place that has it, the file, and its SHA-256."""
    reasons = []
    for place in places:
        _check_room(staging, place)
        try:
            if place.url is not None:
                target = staging / "weights"
                return place, target, download.fetch(place.url, target, place.sha256, tell)
            assert place.hub is not None
            return place, *_fetch_from_hub(place.hub, staging, place.sha256, tell)
        except Absent as error:
            reasons.append(str(error))
    raise Absent(f"{'; '.join(reasons)}; --url names another place")


def _fetch_from_hub(repository: str, staging: Path, sha256: str | None, tell: Progress) -> tuple[Path, str]:
    first, second = _ON_THE_HUB
    try:
        return staging / first, hub.fetch(repository, first, staging, sha256, tell)
    except Absent:
        return staging / second, hub.fetch(repository, second, staging, sha256, tell)


def _check_room(staging: Path, place: Download) -> None:
    """Raises TransferFailed if it is clear beforehand that the disk is too small."""
    need, free = (place.mib or 0) * 2**20, shutil.disk_usage(staging).free
    if need > free + sum(path.stat().st_size for path in staging.rglob("*") if path.is_file()):
        raise TransferFailed(
            f"{place.place} has about {place.mib} MiB, and {free >> 20} MiB are free at {staging.parent}: "
            "make room, or choose another folder with --weights or CLIPCANVAS_WEIGHTS"
        )


def _put(entry: Entry, place: Download, file: Path, sha256: str, tell: Progress, how: How) -> dict[str, str]:
    """Make what was fetched the model's own files."""
    if not isinstance(entry.card, ClipCard):
        return put_vqgan(file, entry, tell, how)
    folder = entry.folder

    def fetch(repository: str, name: str) -> None:
        sums[name] = hub.fetch(repository, name, file.parent, None, tell)
        (file.parent / name).replace(folder / name)

    sums: dict[str, str] = {}
    config = _config(entry.card, place, file.parent, tell)
    fetch_tokenizer(config["model_cfg"], place.hub, fetch)
    write_sums(folder, read_sums(folder) | sums)
    if not is_safetensors(file):
        return put_clip(file, folder, config, tell, how)
    file.replace(folder / CLIP_FILE)
    write_sums(folder, read_sums(folder) | {CLIP_FILE: sha256})
    # last, because it says that all is there
    (file.parent / CONFIG).write_text(json.dumps(config, indent=2), "utf-8")
    (file.parent / CONFIG).replace(folder / CONFIG)
    return {"kind": "CLIP"}


def _config(card: ClipCard, place: Download, staging: Path, tell: Progress) -> dict[str, Any]:
    if card.scheme == "open_clip":
        return config_of(card)
    if place.hub is None:
        raise NoPlace(f"{card.name} has its configuration on the hub only: --url does not do")
    hub.fetch(place.hub, CONFIG, staging, None, tell)
    values = json.loads((staging / CONFIG).read_text("utf-8"))
    if not isinstance(values, dict) or not isinstance(values.get("model_cfg"), dict):
        raise TransferFailed(f"{place.place}/{CONFIG} is not a configuration of open_clip's")
    return values


def verify_files(entry: Entry) -> list[dict[str, Any]]:
    """Compare each file of a model with what it must be: `state` is ok, missing, corrupt or unknown."""
    found = []
    for path, sha256 in entry.files.items():
        actual = sha256_of(path) if path.is_file() else None
        if actual is None:
            state = "missing"
        elif sha256 is None:
            state = "unknown"
        else:
            state = "ok" if actual == sha256.lower() else "corrupt"
        found.append({"path": str(path), "state": state, "expected": sha256, "sha256": actual})
    return found
