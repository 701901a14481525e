"""The training of the prior, on two texts and their codes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.networks import vqgan as vqgans
from models.networks.prior import Prior
from models.weights_io.card import WEIGHTS
from training import prior
from training.data.batches import Album
from training.nets import loop


def found() -> prior.Pairs:
    """Two texts: of one every code is 3, of the other 5."""
    texts = torch.nn.functional.normalize(torch.eye(2, 8)[:, None].expand(-1, 2, -1), dim=-1)
    codes = torch.tensor([3, 5])[:, None, None].expand(-1, 4, 4).contiguous()
    return prior.Pairs(codes, texts, torch.tensor([0, 1]))


def run(folder: Path, steps: int = 40) -> Prior:
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    prior.train(
        Prior(8, 8, 4, channels=8), found(), folder, rng, steps=steps, batch=4, precision="fp32", rate=1e-2
    )
    return Prior.read(load_file(folder / prior.FILE))


def test_it_learns_which_codes_a_text_has(tmp_path: Path) -> None:
    learned = run(tmp_path)
    codes = learned.logits(torch.eye(2, 8)).argmax(1)
    assert codes[0].unique().tolist() == [3]
    assert codes[1].unique().tolist() == [5]


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", steps=12)
    monkeypatch.setattr(loop, "_SAVE_EVERY", 5)
    save, saved = loop.Run.save, 0

    def dying(self: loop.Run) -> None:
        nonlocal saved
        saved += 1
        if saved == 2:
            raise KeyboardInterrupt
        save(self)

    monkeypatch.setattr(loop.Run, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", steps=12)
    monkeypatch.setattr(loop.Run, "save", save)
    resumed = run(tmp_path / "broken", steps=12)
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_what_is_written_is_read_again() -> None:
    one = Prior(8, 8, 4, channels=8)
    torch.nn.init.normal_(one.position)
    other = Prior.read(one.write())
    texts = torch.randn(2, 8)
    torch.testing.assert_close(one.logits(texts), other.logits(texts))


def test_pictures_are_paired_with_their_names_and_colors(album: Album) -> None:
    vqgan = vqgans.load("demo", WEIGHTS)

    def encode(texts: list[str]) -> np.ndarray:
        return np.eye(len(texts), dtype=np.float32)

    pairs = prior.pairs(album, vqgan, encode, torch.Generator().manual_seed(0))
    assert pairs.codes.shape[1:] == (12, 12)
    assert 4 <= len(pairs.codes) == len(pairs.names) <= 8
    assert pairs.texts.shape[1] == len(prior.TEMPLATES)


@pytest.mark.parametrize(
    ("name", "color", "is_turned", "names"),
    [
        ("apple", "red", False, ["apple", "red apple"]),
        ("apple", "blue", True, ["blue apple"]),
        ("apple", None, False, ["apple"]),
        ("apple", None, True, []),
        ("red heart", "red", False, ["red heart"]),
        ("red heart", "blue", True, ["blue heart"]),
        ("red heart", None, True, []),
    ],
)
def test_names_say_the_color_that_is_there(
    name: str, color: str | None, is_turned: bool, names: list[str]
) -> None:
    assert prior.named(name, color, is_turned=is_turned) == names
