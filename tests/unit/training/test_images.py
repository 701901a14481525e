"""The pictures that training sees, and those that it must not."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from training.data import images, names, packages, sets


def svg(body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" width="128" height="128">{body}</svg>'
    )


DISC = svg('<circle cx="8" cy="8" r="6" fill="#d22"/>')
SQUARE = svg('<rect x="3" y="3" width="10" height="10" fill="#26c"/>')
BAR = svg('<rect y="6" width="16" height="4" fill="#2a4"/>')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as `fill` leaves it; every set has a bar, the held-out ones a disc, and so has Twemoji."""
    for chosen in sets.BY_NAME.values():
        drawn = [BAR] * (not chosen.is_held_out) + [DISC] * (chosen.name in ("twemoji", "openmoji"))
        drawn += [SQUARE] * (chosen.name == "tuxpaint")
        rows = [images.Drawing(images.Caption("thing"), source) for source in drawn]
        images.render(rows, tmp_path / chosen.name)
    (tmp_path / "keywords.json").write_text("{}")
    images.fill(tmp_path, processes=1)  # all is there: it looks for twins alone
    return tmp_path


def hashes(found: images.Pictures) -> set[str]:
    return {found.captions[place].sha256 for place in found.places}


def test_no_held_out_picture_is_trained_on(folder: Path) -> None:
    measured = set.union(*(hashes(images.held_out(folder, chosen.name)) for chosen in sets.HELD_OUT))
    trained = set.union(*(hashes(found) for found in images.training(folder)))
    there = {one["sha256"] for one in json.loads((folder / "twemoji.json").read_text())}
    assert len(measured) == 2
    assert len(measured & there) == 1  # the disc was smuggled in,
    assert not measured & trained  # and left out,
    assert trained  # but not everything was


def test_a_picture_is_rendered_with_its_transparency() -> None:
    rendered = images.picture(DISC)
    assert rendered is not None
    assert rendered.shape == (128, 128, 4)
    assert rendered[0, 0, 3] == 0
    assert rendered[64, 64].tolist() == [0xDD, 0x22, 0x22, 255]
    assert images.on_white(rendered[None])[0, 0, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("source", [svg(""), "<svg", "no picture"])
def test_an_empty_or_broken_drawing_is_left_out(source: str) -> None:
    assert images.picture(source) is None


def test_clip_art_fills_the_square(tmp_path: Path) -> None:
    image = images.Image.new("RGBA", (300, 200), (0, 0, 0, 0))
    image.paste((10, 200, 30, 255), (100, 50, 200, 100))
    image.save(tmp_path / "leaf.png")
    rendered = images.picture(tmp_path / "leaf.png")
    assert rendered is not None
    rows, columns = np.nonzero(rendered[..., 3])
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (64, 128)


def test_a_package_under_another_license_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "packages/iconify-json-flat-ui/package"
    package.mkdir(parents=True)
    (package / "info.json").write_text('{"license": {"spdx": "CC-BY-NC-4.0"}}')
    with pytest.raises(images.LicenseChanged, match=r"CC-BY-NC-4\.0, expected MIT"):
        list(images._icons(sets.BY_NAME["flat-ui"], tmp_path / "packages"))


def test_no_set_of_training_is_share_alike_or_not_to_be_sold() -> None:
    allowed = {"Apache-2.0", "MIT", "CC-BY-4.0", "public domain"}
    assert {chosen.license for chosen in sets.TRAINING} <= allowed


def test_a_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(packages.PackageMissing, match="npm is not installed"):
        packages.npm("@iconify-json/flat-ui@1.2.3", tmp_path)
    assert not (tmp_path / "iconify-json-flat-ui").exists()


def test_a_fetched_package_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tmp_path / "package").mkdir()
    (tmp_path / "package/icons.json").write_text("{}")
    with tarfile.open(tools / "packed.tgz", "w:gz") as packed:
        packed.add(tmp_path / "package", "package")
    fetcher = tools / "npm"
    # pack, silent, without scripts, destination, its value
    fetcher.write_text(f'#!/bin/sh\n/bin/cp {tools}/packed.tgz "$5/x.tgz"\n')
    fetcher.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    assert (packages.npm("@iconify-json/flat-ui@1.2.3", tmp_path) / "icons.json").read_text() == "{}"
    fetcher.unlink()
    packages.npm("@iconify-json/flat-ui@1.2.3", tmp_path)


@pytest.mark.parametrize(
    ("vendor", "key", "name"),
    [
        ("noto", "red-heart", "red heart"),
        ("noto", "waving-hand-dark-skin-tone", None),
        ("twemoji", "flag-for-flag-france", "flag france"),
        ("fluent-color", "add-circle-16", None),
        ("fluent-color", "add-circle-32", "add circle"),
        ("fluent-emoji", "hand-light", None),
        ("circle-flags", "fr", "flag fr"),
        ("circle-flags", "fr-bre", None),
        ("meteocons", "barometer-fill", "barometer"),
        ("streamline-color", "add-1-flat", None),
        ("streamline-color", "add-1", "add"),
        ("streamline-plump-color", "add-layer-2-flat", "add layer"),
    ],
)
def test_names_of_icons(vendor: str, key: str, name: str | None) -> None:
    assert names.of_icon(vendor, key) == name


def test_names_of_files() -> None:
    assert names.of_clip_art("apple_red_architetto_fra_01") == "apple red fra"
    assert names.of_clip_art("aj_01") == ""
    assert names.of_stamp("A lion. It roars!") == "lion"
