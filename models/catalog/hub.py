"""Files of repositories on the Hugging Face hub, through its own client, which goes on where it broke off."""

from pathlib import Path
from typing import Any

from models.catalog.transfer import Absent, Progress, TransferFailed
from models.checkpoints import WeightsCorrupt, sha256_of


def fetch(repository: str, file: str, folder: Path, sha256: str | None, tell: Progress) -> str:
    """Fetch a file of a repository into a folder, under its own name; returns its SHA-256.

    `HF_ENDPOINT` and `HF_TOKEN` are heeded, as everywhere where the hub's client is used.

    Args:
        sha256: what it must have; none: what the hub says, which it does of large files.

    Raises:
        Absent: the repository has no such file.
        TransferFailed: the hub does not answer, or refuses, or there is no room. What has arrived stays.
        WeightsCorrupt: it has another SHA-256; it was thrown away.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_download, hf_hub_url

    place = f"hf-hub:{repository}/{file}"
    try:
        known = get_hf_file_metadata(hf_hub_url(repository, file))
        hf_hub_download(repository, file, local_dir=folder, revision=known.commit_hash, tqdm_class=_bar(tell))
    except (errors.EntryNotFoundError, errors.RepositoryNotFoundError) as error:
        if isinstance(error, errors.GatedRepoError):
            raise TransferFailed(
                f"{place} asks for its terms to be accepted on the hub, and then for HF_TOKEN"
            ) from error
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise TransferFailed(f"{place} cannot be reached: {_first_line(error)}") from error
        raise Absent(f"{place} is not there, or asks for HF_TOKEN") from error
    except Exception as error:  # of the hub's client, of its HTTP client, and of the disk
        raise TransferFailed(
            f"{place} was not fetched to its end: {_first_line(error)}; run it again, it goes on from there"
        ) from error
    tell("checking", 0, None)
    expected = sha256 or (known.etag if known.etag and len(known.etag) == 64 else None)
    actual = sha256_of(folder / file)
    if expected is not None and actual != expected:
        (folder / file).unlink()
        raise WeightsCorrupt(f"{place} has SHA-256 {actual}, expected {expected}; it was thrown away")
    return actual


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _bar(tell: Progress) -> Any:
    """A class that the hub's client takes for a bar, and that shows nothing itself."""
    from tqdm.auto import tqdm

    class Telling(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **(kwargs | {"disable": False, "gui": False, "file": _Nowhere()}))

        def update(self, n: float | None = 1) -> None:
            super().update(n)
            tell("fetching", int(self.n), int(self.total) if self.total else None)

    return Telling


class _Nowhere:
    def write(self, text: str) -> None:
        pass

    def flush(self) -> None:
        pass
