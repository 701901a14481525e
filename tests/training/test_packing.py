"""What was trained is shipped smaller, and the CLIPs share their words."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models import clip as clips
from models.clip.cards import find_card
from models.clip.parts import tensors_of, write_whole
from models.weights_io import load_tensors, save_tensors
from models.weights_io.card import WEIGHTS
from training.nets import clip_network
from training.packing import WORDS, WordsDiffer, ship


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make train` leaves it."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("photo", "icons"):
        write_whole(find_card(f"demo-{name}"), WEIGHTS, folder / f"clip-{name}")
    for name in ("prior", "vqgan", "dalle"):
        shutil.copytree(WEIGHTS / name, folder / name)
    return folder


def test_what_is_shipped_is_what_was_trained(trained: Path, tmp_path: Path) -> None:
    written = ship(trained, tmp_path)
    # trained are the shipped weights here, which 8 bits hold as they are
    for path in written:
        shipped = WEIGHTS / path.relative_to(tmp_path)
        if path.suffix == ".json":
            assert path.read_bytes() == shipped.read_bytes()
            continue
        ours, theirs = load_tensors(path), load_tensors(shipped)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor.float(), theirs[name].float(), rtol=1e-6, atol=1e-6)
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path) for path in written}


def test_eight_bits_turn_no_embedding_of_a_text_by_more_than_a_thousandth(
    trained: Path, tmp_path: Path
) -> None:
    rough = shutil.copytree(trained / "clip-icons", tmp_path / "rough" / "clip-icons")
    tensors = load_tensors(rough / "open_clip_model.safetensors")
    rng = torch.Generator().manual_seed(0)
    blocks = [name for name in tensors if "resblocks" in name and name.endswith("weight")]
    for name in blocks:  # off the even steps that these weights came in
        tensors[name] = tensors[name] * (1 + 0.05 * torch.randn(tensors[name].shape, generator=rng))
    save_tensors(rough / "open_clip_model.safetensors", tensors, {})
    for name in ("clip-photo", "prior", "vqgan", "dalle"):
        (tmp_path / "rough" / name).symlink_to(trained / name)
    ship(tmp_path / "rough", tmp_path / "shipped")
    parts = sorted((tmp_path / "shipped").glob("clip-[iw]*/*.safetensors"))
    save_tensors(tmp_path / "shipped" / "clip-icons" / "open_clip_model.safetensors", tensors_of(parts), {})
    texts = ["a cat", "a red heart", "an emoji of a rocket", "smiling face with sunglasses"]
    before, after = (
        clips.load(f"local-dir:{folder / 'clip-icons'}", WEIGHTS, "cpu").encode_texts(texts)
        for folder in (tmp_path / "rough", tmp_path / "shipped")
    )
    assert (before * after).sum(1).min() > 0.999
    assert not np.array_equal(before, after)


def test_training_begins_with_a_card_as_with_a_folder(trained: Path) -> None:
    texts = [[49406, 320, 2368, 49407]]
    found = []
    for start in (Path("demo-icons"), trained / "clip-icons"):
        learner = clip_network.build(128)
        clip_network.read(learner, start)
        found.append(clip_network.encode_texts(learner.eval(), texts))
    assert torch.equal(*found)
    assert not torch.equal(found[0], clip_network.encode_texts(clip_network.build(128).eval(), texts))


def test_clips_with_other_words_are_refused(trained: Path, tmp_path: Path) -> None:
    for name in ("clip-photo", "prior", "vqgan", "dalle"):
        (tmp_path / name).symlink_to(trained / name)
    shutil.copytree(trained / "clip-icons", tmp_path / "clip-icons")
    file = tmp_path / "clip-icons" / "open_clip_model.safetensors"
    tensors = load_tensors(file)
    save_tensors(file, tensors | {WORDS: tensors[WORDS] + 1}, {})
    with pytest.raises(WordsDiffer):
        ship(tmp_path, tmp_path / "shipped")
