"""The images that the demo models are trained on and measured by: fetched, rendered once, kept in a folder.

`fill` fills the folder, and goes on where it stopped:

    packages/            what npm and apt-get brought
    <set>.npy            (N, 128, 128, 4) uint8 RGBA, straight alpha, the picture as large as fits
    <set>.json           of each picture its name, folders, whether it is a photo, SHA-256 of its pixels
    twins.json           by set, places of training pictures that look like a held-out one
    keywords.json        of names of emoji, further words

`training` (without the twins) and `held_out` read it.
"""

import hashlib
import io
import json
import multiprocessing
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from training.data import names, packages, sets

SIDE = 128  # pixels
_TWIN = 0.035  # root mean square difference, of 1, of two pictures of 16x16 pixels on white


class LicenseChanged(ValueError):
    """A package says another license than `training.data.sets` does."""


@dataclass(frozen=True)
class Caption:
    """What is known of a picture beside its pixels."""

    name: str  # lower case, as words
    folders: tuple[str, ...] = ()  # of clip-art, from the outermost
    is_photo: bool = False
    sha256: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures of one set, and where in it they are."""

    chosen: sets.PictureSet
    pixels: NDArray[np.uint8]  # (N, 128, 128, 4), mapped from the file
    captions: list[Caption]
    places: list[int]  # of those to use, in `pixels` and `captions`


@dataclass(frozen=True)
class Drawing:
    """A picture to render."""

    caption: Caption
    source: str | Path  # an SVG, or a file of one or of a PNG


def training(folder: Path) -> list[Pictures]:
    """All that training may see: every set but the held-out ones, without what looks like one of those."""
    twins = json.loads((folder / "twins.json").read_text())
    return [_read(folder, chosen, set(twins[chosen.name])) for chosen in sets.TRAINING]


def held_out(folder: Path, name: str) -> Pictures:
    """A set to measure with: openmoji or tuxpaint."""
    chosen = sets.BY_NAME[name]
    assert chosen.is_held_out
    return _read(folder, chosen, set())


def keywords(folder: Path) -> dict[str, list[str]]:
    """Further words for names of emoji."""
    found: dict[str, list[str]] = json.loads((folder / "keywords.json").read_text())
    return found


def fill(folder: Path, processes: int) -> None:
    """Fetch and render what is not there yet.

    Raises:
        training.data.packages.PackageMissing: a package could not be fetched.
        LicenseChanged: a package says another license than ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fetched = folder / "packages"
    if not (folder / "keywords.json").exists():
        emoji = json.loads((packages.npm(sets.KEYWORDS, fetched) / "dist/emoji-en-US.json").read_text())
        found = {
            names.words(name): [names.words(word) for word in others] for name, *others in emoji.values()
        }
        _write(folder / "keywords.json", found)
    missing = [chosen for chosen in sets.BY_NAME.values() if not (folder / f"{chosen.name}.json").exists()]
    with multiprocessing.get_context("spawn").Pool(processes if missing else 1) as pool:
        for chosen in missing:
            render(list(_drawings(chosen, fetched)), folder / chosen.name, partial(pool.imap, chunksize=32))
    if not (folder / "twins.json").exists():
        _write(folder / "twins.json", _twins(folder))


def render(drawings: list[Drawing], target: Path, run: Callable[..., Iterable[Any]] = map) -> None:
    """Write `target`.npy and, when that is whole, `target`.json. Empty and broken drawings are left out.

    Args:
        run: as `map` does; that of a pool uses its processes.
    """
    pixels, captions = [], []
    rendered = run(picture, [drawing.source for drawing in drawings])
    for drawing, found in zip(drawings, track(rendered, target.name, len(drawings)), strict=True):
        if found is not None:
            pixels.append(found)
            fields = asdict(drawing.caption) | {"sha256": hashlib.sha256(found.tobytes()).hexdigest()}
            captions.append(fields)
    begun = target.with_suffix(".part.npy")
    np.save(begun, np.stack(pixels))
    begun.rename(target.with_suffix(".npy"))
    _write(target.with_suffix(".json"), captions)


def picture(source: str | Path) -> NDArray[np.uint8] | None:
    """An SVG, or a file of one or of a PNG -> (128, 128, 4); none: it is broken or empty."""
    try:
        if isinstance(source, Path) and source.suffix == ".png":
            image = Image.open(source).convert("RGBA")
        else:
            svg = source if isinstance(source, str) else source.read_text(errors="replace")
            width = SIDE if isinstance(source, str) else 2 * SIDE
            image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=width))))
            image = image.convert("RGBA")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    if image.size != (SIDE, SIDE):
        image = _fitted(image)
    pixels = np.asarray(image)
    return pixels if (pixels[..., 3] > 20).mean() >= 0.03 else None


def on_white(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H, W, 4) straight alpha -> (N, H, W, 3) in [0, 1]"""
    values = pixels.astype(np.float32) / np.float32(255)
    found: NDArray[np.float32] = 1 + (values[..., :3] - 1) * values[..., 3:]
    return found


def _fitted(image: Image.Image) -> Image.Image:
    """What is not transparent, as large as fits in the middle of the square."""
    image = image.crop(image.getchannel("A").getbbox())
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # colors count by their alpha, or what is hidden shines through at the edges
    image = image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    square = Image.new("RGBA", (SIDE, SIDE), (255, 255, 255, 0))
    square.paste(image, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square


def _drawings(chosen: sets.PictureSet, fetched: Path) -> Iterator[Drawing]:
    if chosen.name == "openclipart":
        return _clip_art(packages.apt(chosen.package, fetched) / "usr/share/openclipart/png")
    if chosen.name == "tuxpaint":
        return _stamps(packages.apt(chosen.package, fetched) / "usr/share/tuxpaint/stamps")
    return _icons(chosen, fetched)


def _icons(chosen: sets.PictureSet, fetched: Path) -> Iterator[Drawing]:
    """The icons of a set in iconify's format, https://iconify.design/docs/types/iconify-json.html"""
    package = packages.npm(chosen.package, fetched)
    license = json.loads((package / "info.json").read_text())["license"]["spdx"]
    if license != chosen.license:
        raise LicenseChanged(f"{chosen.package} is under {license}, expected {chosen.license}")
    icons = json.loads((package / "icons.json").read_text())
    seen = set()
    squashed = _squashed(fetched) if chosen.name == "fxemoji" else {}
    for key, icon in icons["icons"].items():
        name = names.of_icon(chosen.name, squashed.get(key.replace("-", ""), key))
        once = chosen.name in ("fluent-color", "meteocons")  # one size of each
        if name is None or icon.get("hidden") or (once and name in seen):
            continue
        seen.add(name)
        left, top, width, height = (
            icon.get(field, icons.get(field, default))
            for field, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{SIDE}" height="{SIDE}">{icon["body"]}</svg>'
        )
        yield Drawing(Caption(name), svg)


def _squashed(fetched: Path) -> dict[str, str]:
    """Names without hyphens, as FxEmojis writes them -> the usual ones."""
    found = {}
    for name in ("noto", "twemoji"):
        icons = json.loads((packages.npm(sets.BY_NAME[name].package, fetched) / "icons.json").read_text())
        for key in (*icons["icons"], *icons.get("aliases", {})):
            found[key.replace("-", "")] = key
    return found


def _clip_art(root: Path) -> Iterator[Drawing]:
    for path in sorted(root.rglob("*.png")):
        place = path.relative_to(root)
        if not re.search(r"shapes/stars/|flowchart|unsorted_text", str(place)):
            folders = tuple(names.words(folder) for folder in place.parts[:-1])
            yield Drawing(Caption(names.of_clip_art(path.stem) or folders[-1], folders), path)


def _stamps(root: Path) -> Iterator[Drawing]:
    for text in sorted(root.rglob("*.txt")):
        folders = text.relative_to(root).parts[:-1]
        found = [text.with_suffix(suffix) for suffix in (".png", ".svg") if text.with_suffix(suffix).exists()]
        if folders[0] == "symbols" or "flags" in folders or not found:
            continue
        name = names.of_stamp(text.read_text(errors="replace").split("\n")[0])
        is_photo = found[0].suffix == ".png" and "cartoon" not in str(text.relative_to(root))
        yield Drawing(Caption(name, folders, is_photo), found[0])


def _read(folder: Path, chosen: sets.PictureSet, without: set[int]) -> Pictures:
    fields = json.loads((folder / f"{chosen.name}.json").read_text())
    captions = [Caption(**one | {"folders": tuple(one["folders"])}) for one in fields]
    pixels = np.load(folder / f"{chosen.name}.npy", mmap_mode="r")
    return Pictures(chosen, pixels, captions, [place for place in range(len(fields)) if place not in without])


def _twins(folder: Path) -> dict[str, list[int]]:
    """By set, the places of pictures that look like a held-out one."""
    kept = np.concatenate([_thumbnails(folder, chosen) for chosen in sets.HELD_OUT])
    found = {}
    for chosen in sets.TRAINING:
        rows = _thumbnails(folder, chosen)
        # |a - b|² = |a|² + |b|² - 2 a·b
        distances = (rows**2).sum(1)[:, None] + (kept**2).sum(1) - 2 * rows @ kept.T
        found[chosen.name] = np.flatnonzero(distances.min(1) / rows.shape[1] < _TWIN**2).tolist()
    return found


def _thumbnails(folder: Path, chosen: sets.PictureSet) -> NDArray[np.float32]:
    """(N, 768) in [0, 1]: 16x16 pixels on white"""
    pixels = np.load(folder / f"{chosen.name}.npy", mmap_mode="r")
    rows = []
    for start in range(0, len(pixels), 256):
        values = on_white(pixels[start : start + 256])
        rows.append(values.reshape(len(values), 16, 8, 16, 8, 3).mean((2, 4)).reshape(len(values), -1))
    return np.concatenate(rows)


def _write(path: Path, content: object) -> None:
    begun = path.with_suffix(".part.json")
    begun.write_text(json.dumps(content))
    begun.rename(path)
