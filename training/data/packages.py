"""Packages by name, from the registries that npm and apt ask: fetched once, unpacked, kept."""

import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path


class PackageMissing(RuntimeError):
    """A package could not be fetched."""


def npm(package: str, folder: Path) -> Path:
    """The files of an npm package `NAME@VERSION`, under `folder`. Nothing of it is run.

    Raises:
        PackageMissing: npm is not here, or did not bring it.
    """
    name = package.rsplit("@", 1)[0].removeprefix("@").replace("/", "-")

    def fetch(target: Path) -> None:
        _run(["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(target), package])
        for archive in target.glob("*.tgz"):
            with tarfile.open(archive) as opened:
                opened.extractall(target, filter="data")
            archive.unlink()

    return _kept(folder / name, fetch) / "package"


def apt(package: str, folder: Path) -> Path:
    """The files of a Debian package, as they would lie under `/`. It is not installed.

    Raises:
        PackageMissing: apt-get is not here, or did not bring it.
    """

    def fetch(target: Path) -> None:
        _run(["apt-get", "-q", "download", package], target)
        for archive in target.glob("*.deb"):
            _run(["dpkg-deb", "--extract", str(archive), str(target)])
            archive.unlink()

    return _kept(folder / package, fetch)


def _kept(place: Path, fetch: Callable[[Path], None]) -> Path:
    """What `fetch` puts into a folder; the folder gets its name when all is there."""
    if not place.exists():
        begun = place.with_name(f"{place.name}.part")
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        fetch(begun)
        begun.rename(place)
    return place


def _run(command: list[str], folder: Path | None = None) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise PackageMissing(
            f"{command[0]} is not installed; {' '.join(command)} would fetch what is needed"
        ) from None
    except subprocess.CalledProcessError as error:
        raise PackageMissing(f"{' '.join(command)} failed: {error.stderr.strip()[-500:]}") from None
