"""The training of a CLIP, on four pictures."""

from pathlib import Path

import open_clip
import pytest
import timm
import torch
from torch import Tensor

from models import clip as clips
from training import clip
from training.data import captions
from training.data.batches import Album
from training.nets import clip_network, loop

SIZE = 32


@pytest.fixture(autouse=True)
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text tower of one narrow layer: the checkpoints of the whole one are large."""
    for name, value in {"width": 32, "heads": 2, "layers": 1}.items():
        monkeypatch.setitem(clip_network.TEXT, name, value)


def run(folder: Path, album: Album, steps: int, **settings: bool) -> tuple[clip_network.CLIP, clip.Bank]:
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    learner = clip_network.build(SIZE)
    names = clip.bank(learner, [caption.name for caption in album.captions])
    clip.train(
        learner,
        lambda: captions.drawn(album, {}, 8, SIZE, rng),
        names,
        folder,
        rng,
        steps=steps,
        way=1,
        **settings,
    )
    return learner, names


def test_it_learns_which_caption_is_whose(
    album: Album, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_LOG_EVERY", 10)
    learner, _ = run(tmp_path, album, 30)
    header, *rows = (tmp_path / loop.LOG).read_text().splitlines()
    column = header.split(",").index("bank")
    losses = [float(row.split(",")[column]) for row in rows]
    assert losses[-1] < 0.9 * losses[0]
    clip_network.write(learner, tmp_path / "written", SIZE)
    served = clips.load(f"local-dir:{tmp_path / 'written'}", tmp_path)
    assert (served.dimension, served.image_size, served.context_length) == (640, SIZE, 32)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    album: Album, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run(tmp_path / "whole", album, 4)
    monkeypatch.setattr(loop, "_SAVE_EVERY", 2)
    report = loop.Run.report

    def dying(self: loop.Run, **losses: Tensor) -> None:
        if self.step == 3:
            raise KeyboardInterrupt
        report(self, **losses)

    monkeypatch.setattr(loop.Run, "report", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", album, 4)
    monkeypatch.setattr(loop.Run, "report", report)
    resumed, _ = run(tmp_path / "broken", album, 4)
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))


def test_texts_can_keep_their_embeddings(album: Album, tmp_path: Path) -> None:
    learner, before = run(tmp_path, album, 2, keep_text=True)
    assert torch.equal(clip.bank(learner, before.names).embeddings, before.embeddings)


def test_class_scores_become_embeddings_of_names() -> None:
    learner = clip_network.build(SIZE).eval()
    known = timm.create_model("tf_efficientnet_lite0").eval()
    fox = open_clip.IMAGENET_CLASSNAMES.index("red fox")
    torch.nn.init.zeros_(known.classifier.weight)
    torch.nn.init.zeros_(known.classifier.bias)
    known.classifier.bias.data[fox] = 20
    clip.know_imagenet(learner, known, 0.8, 6)
    names = clip.bank(learner, ["red fox", "teapot", "castle"])
    with torch.inference_mode():
        seen = clip_network.encode_images(learner, torch.rand(1, 3, SIZE, SIZE))
    assert (seen @ names.embeddings.T).argmax() == 0


def test_a_caption_says_the_color_that_is_there() -> None:
    rng = torch.Generator().manual_seed(0)
    said = captions.captioned("red heart", (), {}, "blue", True, rng)
    assert said == ("blue heart", "blue heart")
    assert captions.captioned("red heart", (), {}, None, True, rng)[0] == "heart"
    assert captions.captioned("red heart", (), {}, "red", False, rng)[0] == "red heart"
    found = {
        captions.captioned("apple", ("fruit",), {"apple": ["food"]}, "red", False, rng)[0] for _ in range(99)
    }
    assert {"apple", "red apple", "fruit", "apple fruit", "food"} <= found


def test_batches_are_pictures_with_captions(album: Album) -> None:
    batch = captions.drawn(album, {}, 9, SIZE, torch.Generator().manual_seed(0))
    assert batch.images.shape == (9, 3, SIZE, SIZE)
    assert float(batch.images.min()) >= 0
    assert float(batch.images.max()) <= 1
    assert len(batch.captions) == len(batch.names) == 9
