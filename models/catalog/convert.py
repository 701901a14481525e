"""A checkpoint from elsewhere becomes a model of ours: converted, checked against its card, put in place."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import yaml

from models import weights_io
from models.catalog import Entry, UnknownModel, find
from models.catalog.check import check_clip, check_vqgan
from models.catalog.clip_files import TOKENIZER, TOKENIZER_TOO, TOWER, NotInOpenClip, config_of
from models.catalog.download import Progress
from models.catalog.min_dalle_files import convert_folder
from models.catalog.sandbox import How, run
from models.catalog.unclip_files import copy_folder
from models.clip import cards
from models.clip.cards import CLIP_FILE, CONFIG, OWN_CARD, ClipCard, sizes_of
from models.networks import min_dalle, unclip, vqgan
from models.weights_io import WeightsUnusable, read_sums, write_sums
from models.weights_io.card import is_model_name

VQGAN_FILE = "model.safetensors"


class CannotConvert(Exception):
    """A file cannot become the model that it was to become; the message says why."""


def convert(
    source: Path,
    name: str,
    weights: Path,
    tell: Progress,
    *,
    config: Path | None = None,
    how: How = How(),
) -> dict[str, str]:
    """Make a checkpoint the model of that name; returns what `models.weights_io.unpickle.convert` does.

    Args:
        name: of a card whose weights it becomes; or a new one, which needs a `config`.
        config: taming's YAML of a VQGAN, or `open_clip_config.json` of a CLIP.

    Raises:
        CannotConvert: the name or the configuration does not do.
        models.weights_io.UnsafeCheckpoint: it names what is not on the list; nothing of it was run.
        models.weights_io.WeightsError: it cannot be read, or does not fit the configuration.
    """
    if config is not None:
        if source.is_dir():
            raise CannotConvert(f"{source} is a folder, and a file is expected beside --config")
        return _convert_own(source, name, weights, config, tell, how)
    try:
        entry = find(name, weights)
    except UnknownModel as error:
        raise CannotConvert(
            f"{name} has no card: say what network it is, with --config and taming's YAML of a VQGAN, or "
            f"{CONFIG} of a CLIP"
        ) from error
    if isinstance(entry.card, unclip.Card):
        return _copy(source, entry, tell)
    if source.is_dir() and not isinstance(entry.card, min_dalle.Card):
        raise CannotConvert(f"{source} is a folder, and {name} is made of one file")
    with _made(entry.folder):
        if isinstance(entry.card, min_dalle.Card):
            return convert_folder(source, entry, tell, how)
        if isinstance(entry.card, ClipCard):
            try:
                told = config_of(entry.card)
            except NotInOpenClip as error:
                raise CannotConvert(f"{error}; say what network it is with --config") from error
            return put_clip(source, entry.folder, told, tell, how)
        return put_vqgan(source, entry, tell, how)


def _copy(source: Path, entry: Entry, tell: Progress) -> dict[str, str]:
    if not source.is_dir():
        raise CannotConvert(f"{entry.name} is made of a folder in diffusers' layout, not of one file")
    with _made(entry.folder):
        return copy_folder(source, entry, tell)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder is there; it goes again if nothing comes into it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()


def _convert_own(
    source: Path, name: str, weights: Path, config: Path, tell: Progress, how: How
) -> dict[str, str]:
    """A model that gets a card of its own."""
    if not is_model_name(name):
        raise CannotConvert(f"{name!r} is no name for a model: letters, digits, dots, - and _, 100 at most")
    if name in (*cards.available(), *vqgan.available(), *min_dalle.available(), *unclip.available()):
        raise CannotConvert(f"{name} is a model of the catalog: leave --config out, or take another name")
    values = _read(config)
    folder = weights / name
    with _made(folder):
        if "model_cfg" in values:
            _copy_tokenizer(config.parent, folder)
            report = put_clip(source, folder, values, tell, how)
            (folder / OWN_CARD).write_text(_clip_card(source, name, values["model_cfg"]), "utf-8")
            return report
        card = vqgan.Card(
            name=name,
            description=f"Converted from {source.name}.",
            config=vqgan.VqganConfig.model_validate(values),
            weights=vqgan.WeightsFile(file=f"{name}/{VQGAN_FILE}"),
            license="unknown",
            source=source.name,
            drawing={"width": 256, "height": 256, "steps": 300, "learning_rate": 0.1, "cutouts": 32},
        )
        report = put_vqgan(source, Entry(card, weights), tell, how, any_kind=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(values), "utf-8")
        (folder / vqgan.OWN_CARD).write_text(_vqgan_card(card, report["kind"]), "utf-8")
        return report


def put_clip(
    source: Path, folder: Path, config: Mapping[str, Any], tell: Progress, how: How = How()
) -> dict[str, str]:
    """Convert a CLIP's checkpoint and put it into its folder; the configuration comes last."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".convert-") as made:
        new = Path(made) / CLIP_FILE
        report = run(source, new, tell, how)
        if report["kind"] != "CLIP":
            raise WeightsUnusable(f"{source} is a {report['kind']}, and a CLIP was expected")
        (Path(made) / CONFIG).write_text(json.dumps(config, indent=2), "utf-8")
        check_clip(Path(made), folder, source)
        new.replace(folder / CLIP_FILE)
        write_sums(folder, read_sums(folder) | {CLIP_FILE: report["sha256"]})
        (Path(made) / CONFIG).replace(folder / CONFIG)
    return report


def put_vqgan(
    source: Path, entry: Entry, tell: Progress, how: How = How(), *, any_kind: bool = False
) -> dict[str, str]:
    """Convert a VQGAN's checkpoint and put it where its card says."""
    card = cast(vqgan.Card, entry.card)
    target = entry.weights / card.weights.file
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".convert-") as made:
        new = Path(made) / target.name
        report = run(source, new, tell, how)
        if report["kind"] != card.kind and (report["kind"] == "CLIP" or not any_kind):
            raise WeightsUnusable(f"{source} is a {report['kind']}, and {card.name} is a {card.kind}")
        codes = (int(report["n_embed"]), int(report["embed_dim"]))
        check_vqgan(new, card.config, report["kind"], codes, source, card.channels_per_group)
        if card.weights.sha256 is not None:
            weights_io.verify(new, card.weights.sha256)
        new.replace(target)
    write_sums(target.parent, read_sums(target.parent) | {target.name: report["sha256"]})
    return report


def _read(config: Path) -> dict[str, Any]:
    """What a configuration says. JSON is YAML."""
    try:
        values = yaml.safe_load(config.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CannotConvert(f"{config} cannot be read as YAML or JSON: {error}") from error
    if not isinstance(values, dict):
        raise CannotConvert(f"{config} is no configuration of a network")
    if "model_cfg" not in values:
        try:
            vqgan.VqganConfig.model_validate(values)
        except ValueError as error:
            raise CannotConvert(
                f"{config} is neither taming's YAML of a VQGAN nor {CONFIG}: {error}"
            ) from error
    return values


def _copy_tokenizer(beside: Path, folder: Path) -> None:
    """Bring along the files of a tokenizer, and of a text tower of transformers', if they are there."""
    for file in (*TOKENIZER, *TOKENIZER_TOO, TOWER):
        if (beside / file).is_file():
            shutil.copyfile(beside / file, folder / file)


def _clip_card(source: Path, name: str, model: Mapping[str, Any]) -> str:
    sizes = "".join(f"{key} = {value}\n" for key, value in sizes_of(model).items())
    return (
        f"description = {json.dumps(f'Converted from {source.name}.')}\n"
        f"source = {json.dumps(f'local-dir:{name}')}\n{sizes}"
    )


def _vqgan_card(card: vqgan.Card, kind: str) -> str:
    drawing = "".join(f"{key} = {value}\n" for key, value in card.drawing.items())
    return (
        f"description = {json.dumps(card.description)}\n"
        f"license = {json.dumps(card.license)}\n"
        f"source = {json.dumps(card.source)}\n"
        f"kind = {json.dumps(kind)}\n"
        'config = "config.yaml"\n\n'
        f"[weights]\nfile = {json.dumps(card.weights.file)}\n\n"
        f"[drawing]\n{drawing}"
    )
