"""Training dalle: it learns, goes on after an interruption to the same weights, and its weights can draw."""

import argparse
from pathlib import Path

import pytest
import torch

from models.networks.dalle_model import Dalle
from models.networks.shared_networks import Networks
from models.requests.network_names import NetworkNames
from models.requests.prompts import COLORS
from models.weights_io import load_tensors
from training import dalle
from training.data.batches import Album
from training.evaluate.encode import load_vqgan
from training.nets import loop


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks(NetworkNames(device="cpu"))


@pytest.fixture(scope="module")
def views(album: Album, networks: Networks) -> dalle.Views:
    vqgan = load_vqgan("demo", networks.names.weights, codes=1024)
    return dalle.views_of(album, vqgan, 3, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def texts(views: dalle.Views, networks: Networks) -> dalle.Texts:
    prior = networks.prior()
    assert prior is not None
    return dalle.Texts(networks.clip("demo-icons"), prior, views, {"red circle": ["disc"]})


def run(folder: Path, views: dalle.Views, texts: dalle.Texts, codebook: torch.Tensor) -> Dalle:
    chosen = argparse.Namespace(
        **{"folder": folder, "steps": 50, "batch": 6, "rate": 1e-2, "width": 32, "depth": 1, "heads": 2},
        device="cpu",
        precision="bf16",
    )
    rng = loop.prepare(0)
    return dalle.train(dalle.begin(texts, codebook, chosen), views, texts, rng, chosen)


def test_views_are_the_pictures_in_codes_and_tell_their_color(views: dalle.Views, networks: Networks) -> None:
    assert views.codes.shape == (12, 144)
    assert views.names[:4] == views.names[4:8] == views.names[8:]
    first = dict(zip(views.names[:4], views.colors[:4], strict=True))
    assert first == {f"{color} {shape}": color for color, shape in map(str.split, first)}
    assert views.turned == [False] * 8 + [True] * 4
    vqgan = networks.vqgan()
    grids = views.codes[:4].long().view(-1, 12, 12)
    middles = vqgan.decode(vqgan.lookup(grids))[:, :, 44:52, 44:52].mean((2, 3))
    red = middles[views.names.index("red circle")]
    assert red[0] > 2 * red[1:].max()


def test_captions_name_the_color_of_a_view_that_no_vendor_drew(
    texts: dalle.Texts, views: dalle.Views
) -> None:
    for view in range(8, 12):
        caption = texts.caption(view, [0.5, 0.5, 0.5, 0.9, 0.9])
        assert views.colors[view] in caption.split()
        assert sum(color in caption.split() for color in COLORS) == 1
    circle = views.names.index("red circle")
    assert texts.caption(circle, [0.01, 0, 0, 0, 0]) == ""
    assert texts.caption(circle, [0.5, 0.01, 0.5, 0.9, 0]) == "disc"
    assert texts.caption(circle, [0.5, 0.01, 0.5, 0.1, 0.3]) == "a red disc"


def test_it_learns_and_an_interruption_changes_nothing(
    views: dalle.Views,
    texts: dalle.Texts,
    networks: Networks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codebook = networks.vqgan().codebook[: texts.prior.codes]  # dalle knows as many as the prior
    whole = run(tmp_path / "whole", views, texts, codebook)
    monkeypatch.setattr(loop, "_SAVE_EVERY", 20)
    save, saved = loop.Run.save, 0

    def dying(self: loop.Run) -> None:
        nonlocal saved
        saved += 1
        if saved == 2:
            raise KeyboardInterrupt
        save(self)

    monkeypatch.setattr(loop.Run, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", views, texts, codebook)
    monkeypatch.setattr(loop.Run, "save", save)
    resumed = run(tmp_path / "broken", views, texts, codebook)
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    rows = (tmp_path / "whole" / loop.LOG).read_text().splitlines()[1:]
    losses = [float(row.split(",")[1]) for row in rows]
    assert losses[-1] < losses[0] - 0.5
    written = Dalle.read(load_tensors(tmp_path / "whole" / dalle.FILE), heads=2)
    assert (written.side, len(written.transformer.blocks)) == (12, 1)
