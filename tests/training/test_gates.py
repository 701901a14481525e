"""Gates that learn from a classifier: they say what its probabilities say, also where it is unsure."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from open_clip import IMAGENET_CLASSNAMES
from torch import Tensor, nn

from training import gates
from training.clip import bank
from training.data import kinds
from training.nets import clip_network, loop

CLASSES, FEATURES, DIMENSION = 6, 16, 8


class Mlp(nn.Module):
    """A gate for each class, as `training.clip.know_imagenet` makes them, and some to spare."""

    def __init__(self, classifier: nn.Linear, names: Tensor) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(FEATURES, 2 * CLASSES), nn.Linear(2 * CLASSES, DIMENSION)
        with torch.no_grad():
            self.fc1.weight[:CLASSES] = 0.8 * classifier.weight
            self.fc1.bias[:CLASSES] = -6.0
            self.fc2.weight.zero_()
            self.fc2.weight[:, :CLASSES] = 0.25 * names.T

    def forward(self, features: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(features)))  # type: ignore[no-any-return]


@pytest.fixture
def classifier() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(FEATURES, CLASSES)


@pytest.fixture
def names() -> Tensor:
    return F.normalize(torch.randn(CLASSES, DIMENSION, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def features() -> Tensor:
    return torch.rand(64, FEATURES, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def agreement(head: nn.Module, classifier: nn.Module, names: Tensor, features: Tensor) -> float:
    taught = F.normalize(classifier(features).softmax(-1) @ names, dim=-1)
    return float((F.normalize(head(features), dim=-1) * taught).sum(-1).mean())


def run(
    head: nn.Module, classifier: nn.Module, names: Tensor, features: Tensor, folder: Path, steps: int
) -> None:
    rng = torch.Generator().manual_seed(3)
    gates.train(head, classifier, names, features, folder, rng, steps=steps, batch=64)


def test_they_say_what_the_classifier_thinks(
    classifier: nn.Linear, names: Tensor, features: Tensor, tmp_path: Path
) -> None:
    head = Mlp(classifier, names)
    features = 8 * features
    before = agreement(head, classifier, names, features)
    run(head, classifier, names, features, tmp_path, 400)
    assert before < 0.7
    assert agreement(head, classifier, names, features) > 0.9
    header, *rows = (tmp_path / loop.LOG).read_text().splitlines()
    assert header == "step,cosine,order,stay"
    assert len(rows) == 16


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    classifier: nn.Linear, names: Tensor, features: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SAVE_EVERY", 2)
    whole, first, second = (Mlp(classifier, names) for _ in range(3))
    with torch.no_grad():
        for head in (first, second):
            head.load_state_dict(whole.state_dict())
    run(whole, classifier, names, features, tmp_path / "whole", 5)

    class Stopped(Exception):
        pass

    def stop(run: loop.Run, **losses: Tensor) -> None:
        if run.step == 3:
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(loop.Run, "report", stop)
        with pytest.raises(Stopped):
            run(first, classifier, names, features, tmp_path / "parts", 5)
    run(second, classifier, names, features, tmp_path / "parts", 5)
    for one, other in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_features_are_made_up_as_sure_as_those_of_photos(classifier: nn.Linear, features: Tensor) -> None:
    rng = torch.Generator().manual_seed(4)
    found = gates.some(features, classifier, 4000, rng)
    assert found.shape == (4000, FEATURES)
    assert found.min() >= 0, "as behind a rectifier"
    natural = (found[:, None] == features).all(-1).any(1).float().mean()
    assert 0.17 < natural < 0.25
    best = F.linear(found, classifier.weight).max(1).values
    assert (best > 6).float().mean() > 0.1, "clamping took some of it away"
    assert F.linear(features, classifier.weight).max() < 2


def test_it_begins_with_a_gate_for_each_class_that_gives_way_to_all(
    classifier: nn.Linear, names: Tensor, features: Tensor
) -> None:
    head = Mlp(classifier, names)
    features = 8 * features
    before = agreement(head, classifier, names, features)
    gates.begin(head, classifier, names, features, torch.Generator().manual_seed(5))
    opened = F.linear(features, head.fc1.weight[:CLASSES], head.fc1.bias[:CLASSES])
    wanted = 1.5 * classifier(features).log_softmax(-1) + 6
    assert (opened - wanted).abs().mean() < 0.2 * wanted.std()
    assert agreement(head, classifier, names, features) > max(0.9, before)
    assert torch.equal(head.fc2.weight[:, :CLASSES], 0.25 * names.T)
    assert not head.fc2.weight[:, CLASSES:].any()
    assert head.fc1.weight[CLASSES:].abs().sum(1).min() > 0, "from nothing it would not learn"


def test_a_class_means_its_name_and_something_of_its_kinds_and_of_what_its_photos_show() -> None:
    learner = clip_network.build(32).eval()
    members = torch.zeros(1000, 2)
    members[IMAGENET_CLASSNAMES.index("goldfish")] = 1
    members[:99, 0] = 1
    meanings = gates.meant(learner, kinds.Kinds(["animal", "fish"], members))
    words = ("goldfish", "animal", "fish", "person", "suit", "flower", "vase", "electric ray")
    said = dict(zip(words, bank(learner, [*words]).embeddings, strict=True))

    def means(name: str) -> Tensor:
        return meanings[IMAGENET_CLASSNAMES.index(name)]

    for name, other in (("suit", "person"), ("vase", "flower")):
        torch.testing.assert_close(means(name), F.normalize(said[name] + 0.4 * said[other], dim=-1))
    both = math.log(1000 / 99) ** 0.5 * said["animal"] + math.log(1000) ** 0.5 * said["fish"]
    torch.testing.assert_close(
        means("goldfish"), F.normalize(said["goldfish"] + 0.2 * F.normalize(both, dim=0), dim=-1)
    )
    torch.testing.assert_close(
        means("electric ray"), F.normalize(said["electric ray"] + 0.2 * said["animal"], dim=-1)
    )


def test_all_whose_photos_show_something_else_have_a_class() -> None:
    assert kinds.SHOWN["person"] | kinds.SHOWN["flower"] <= {*IMAGENET_CLASSNAMES}
    shown = kinds.shown()
    assert shown[IMAGENET_CLASSNAMES.index("suit")].tolist() == [1, 0]
    assert shown[IMAGENET_CLASSNAMES.index("vase")].tolist() == [0, 1]
    assert shown[IMAGENET_CLASSNAMES.index("goldfish")].tolist() == [0, 0]


def test_kinds_are_what_wordnet_has_above_several_classes(tmp_path: Path) -> None:
    lines = [
        "  1 This software and database is being provided to you",
        "00000001 03 n 01 thing 0 001 ~ 00000002 n 0000 | all",
        "00000002 03 n 02 living_thing 0 organism 0 001 @ 00000001 n 0000 | lives",
        "00000003 05 n 01 dog 0 002 @ 00000002 n 0000 ~ 00000004 n 0000 | barks",
        *(f"0000000{number} 05 n 01 dog{number} 0 001 @ 00000003 n 0000 | barks" for number in range(4, 9)),
        "00000009 05 n 01 tree 0 001 @i 00000002 n 0000 | grows",
    ]
    (tmp_path / "data.noun").write_text("\n".join(lines))
    found = kinds.read(tmp_path / "data.noun", [f"n0000000{number}" for number in range(4, 10)])
    columns = dict(zip(found.names, found.members.T.tolist(), strict=True))
    assert columns == {"thing": [1] * 6, "living thing": [1] * 6, "dog": [1] * 5 + [0]}


def test_it_looks_with_the_trunk_at_all_pictures() -> None:
    shown = torch.rand(5, 3, 4, 4)
    seen = gates.look(nn.Flatten(), lambda: shown, 3)
    assert torch.equal(seen, (shown * 2 - 1).flatten(1).repeat(3, 1))
