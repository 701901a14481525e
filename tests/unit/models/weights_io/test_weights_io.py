"""A weights file is the one its card means, or the error names the file and both hashes."""

import hashlib
from pathlib import Path

import pytest

from models.weights_io import WeightsCorrupt, WeightsMissing, sha256_of, verify


def test_a_file_with_the_right_hash_passes_in_either_case(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"x" * 3_000_000)  # longer than one piece
    sha256 = hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert sha256 == sha256_of(file)
    verify(file, sha256)
    verify(file, sha256.upper())


def test_another_file_is_corrupt_and_the_error_has_its_name_and_both_hashes(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"other")
    with pytest.raises(WeightsCorrupt) as caught:
        verify(file, "0" * 64)
    for part in (str(file), "0" * 64, hashlib.sha256(b"other").hexdigest()):
        assert part in str(caught.value)


@pytest.mark.parametrize("path", ["absent", "absent/deeper", "file/below", "."])
def test_a_missing_file_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsMissing, match="is not there"):
        verify(tmp_path / path, "0" * 64)
