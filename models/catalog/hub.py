"""Files of repositories on the Hugging Face hub: its client says which, and they come as any other file."""

from pathlib import Path

from models.catalog import download
from models.catalog.download import Absent, Progress, TransferFailed


def fetch(repository: str, file: str, folder: Path, sha256: str | None, tell: Progress) -> str:
    """Fetch a file of a repository into a folder, under its own name; returns its SHA-256.

    The hub's client begins anew each time that it is called, so it is not the one that fetches.
    `HF_ENDPOINT` and `HF_TOKEN` are heeded, as everywhere where the hub's client is used.

    Args:
        sha256: what it must have; none: what the hub says, which it does of large files.

    Raises:
        Absent: the repository has no such file.
        TransferFailed: the hub does not answer, or refuses, or there is no room. What has arrived stays.
        models.weights_io.WeightsCorrupt: it has another SHA-256; it was thrown away.
    """
    from huggingface_hub import errors, get_hf_file_metadata, get_token, hf_hub_url

    place = f"hf-hub:{repository}/{file}"
    try:
        known = get_hf_file_metadata(hf_hub_url(repository, file))
    except (errors.EntryNotFoundError, errors.RepositoryNotFoundError) as error:
        if isinstance(error, errors.GatedRepoError):
            raise TransferFailed(
                f"{place} asks for its terms to be accepted on the hub, and then for HF_TOKEN"
            ) from error
        raise Absent(f"{place} is not there, or asks for HF_TOKEN") from error
    except Exception as error:  # of the hub's client, and of its HTTP client
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise TransferFailed(f"{place} cannot be reached: {first_line}") from error
    token = get_token()
    target = folder / file
    target.parent.mkdir(parents=True, exist_ok=True)
    return download.fetch(
        hf_hub_url(repository, file, revision=known.commit_hash),
        target,
        sha256 or (known.etag if known.etag and len(known.etag) == 64 else None),
        tell,
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )
