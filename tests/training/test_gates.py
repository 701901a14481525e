"""Gates that learn from a classifier: they say what its probabilities say, also where it is unsure."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import gates, loop

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


def test_gates_that_lead_nowhere_begin_at_random(classifier: nn.Linear, names: Tensor) -> None:
    head = Mlp(classifier, names)
    with torch.no_grad():
        head.fc1.weight[CLASSES:] = 0
    gates.wake(head, torch.Generator().manual_seed(5))
    assert torch.equal(head.fc1.weight[:CLASSES], 0.8 * classifier.weight)
    assert head.fc1.weight[CLASSES:].abs().sum(1).min() > 0


def test_it_looks_with_the_trunk_at_all_pictures() -> None:
    shown = torch.rand(5, 3, 4, 4)
    seen = gates.look(nn.Flatten(), lambda: shown, 3)
    assert torch.equal(seen, (shown * 2 - 1).flatten(1).repeat(3, 1))
