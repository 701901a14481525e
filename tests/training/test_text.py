"""The distillation of the text tower, and the texts it learns from."""

import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer

from training import text
from training.data import words
from training.nets import clip_network, loop

WORDS = [
    "cat",
    "dog",
    "car",
    "tree",
    "house",
    "sun",
    "moon",
    "heart",
    "fish",
    "bird",
    "red car",
    "blue house",
]


@pytest.fixture(autouse=True)
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text tower of one narrow layer: the checkpoints of the whole one are large."""
    for name, value in {"width": 32, "heads": 2, "layers": 1}.items():
        monkeypatch.setitem(clip_network.TEXT, name, value)


def found() -> text.Texts:
    rng = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(len(WORDS), text.TEACHER, generator=rng), dim=-1)
    return text.Texts(WORDS, torch.ones(len(WORDS)), rows)


def run(folder: Path, steps: int) -> clip_network.CLIP:
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    learner = clip_network.build(image_size=32)
    text.train(learner, found(), folder, rng, steps=steps, batch=8, precision="fp32")
    return learner


def test_it_learns_the_teachers_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_LOG_EVERY", 10)
    learner = run(tmp_path, 60)
    cosines = [float(row.split(",")[1]) for row in (tmp_path / loop.LOG).read_text().splitlines()[1:]]
    assert cosines[-1] > cosines[0] + 0.05
    clip_network.write(learner, tmp_path, image_size=32)
    again = clip_network.build(image_size=32)
    clip_network.read(again, tmp_path)
    ids = [text.marked(SimpleTokenizer(), SimpleTokenizer().encode("cat"))]
    torch.testing.assert_close(
        clip_network.encode_texts(again, ids), clip_network.encode_texts(learner, ids), atol=5e-3, rtol=0
    )


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", 4)
    monkeypatch.setattr(loop, "_SAVE_EVERY", 2)
    report = loop.Run.report

    def dying(self: loop.Run, **losses: torch.Tensor) -> None:
        if self.step == 3:
            raise KeyboardInterrupt
        report(self, **losses)

    monkeypatch.setattr(loop.Run, "report", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", 4)
    monkeypatch.setattr(loop.Run, "report", report)
    resumed = run(tmp_path / "broken", 4)
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))


def test_texts_are_encoded_as_open_clip_encodes_them() -> None:
    learner = clip_network.build(image_size=32).eval()
    tokenizer = SimpleTokenizer(context_length=clip_network.CONTEXT)
    texts = ["a cat", "a small red car on a white background"]
    ids = [text.marked(tokenizer, tokenizer.encode(one)) for one in texts]
    with torch.inference_mode():
        expected = F.normalize(learner.encode_text(tokenizer(texts)), dim=-1)
        torch.testing.assert_close(clip_network.encode_texts(learner, ids), expected, atol=1e-5, rtol=0)


def test_nouns_of_wordnet_are_those_one_can_see(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(
        "  1 This is the license.\n"
        "00000001 05 n 02 red_fox 0 Vulpes_vulpes 0 000 | a fox; it is red\n"
        "00000002 06 n 01 tea_cup 0 000 | a cup for tea; small\n"
        "00000003 26 n 01 sleepiness 0 000 | a state\n"
    )
    things: list[str] = []
    rows = dict(words._nouns(tmp_path / "data.noun", things, random.Random(0)))
    assert {"red_fox", "tea_cup"} <= set(rows)
    assert not {"Vulpes_vulpes", "sleepiness"} & set(rows)
    assert things == ["red fox", "tea cup"]
