"""A network as graphs gives what the network gives, forth and back, whatever is asked of it in between.

There is no GPU here: a recorder on the CPU does what CUDA's does, it runs the same again into the memory of
the first time. So all is tried but CUDA itself.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.runtime.cuda_graphs import Graphed, GraphWrong


class Recorder:
    """Replays on the CPU, and counts it."""

    def __init__(self) -> None:
        self.replays = 0

    def warm_up(self, run: Callable[[], object]) -> None:
        run()

    def record(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        made = run()

        def replay() -> None:
            self.replays += 1
            with torch.enable_grad():  # a graph of CUDA's knows of no such thing
                again = run()
            made.detach().copy_(again.detach())

        return made, replay


class Stale(Recorder):
    """Its replays do nothing, as if the network had read its input from elsewhere."""

    def record(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        return run(), lambda: None


def wave(images: Tensor) -> Tensor:
    return (images.sin() * images).sum(-1)


def leaf(seed: int) -> Tensor:
    return torch.rand(2, 3, generator=torch.Generator().manual_seed(seed)).requires_grad_(True)


def gradient(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    made = network(images)
    return torch.autograd.grad((made * torch.arange(1.0, 3)).sum(), images)[0]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def graphed(recorder: Recorder) -> Graphed:
    made = Graphed(wave, [leaf(0)], recorder)
    recorder.replays = 0
    return made


def test_it_is_the_network_forth_and_back(graphed: Graphed, recorder: Recorder):
    for seed in range(1, 4):
        assert torch.equal(gradient(graphed, leaf(seed)), gradient(wave, leaf(seed)))
    assert recorder.replays == 6
    kept = [graphed(leaf(seed)) for seed in (1, 2)]
    assert torch.equal(kept[0], wave(leaf(1))), "what was given stays"


def test_a_pass_within_another_is_computed_without_the_graph(graphed: Graphed, recorder: Recorder):
    first, second = leaf(1), leaf(2)
    one, other = graphed(first), graphed(second)
    assert recorder.replays == 1
    one.sum().backward()
    other.sum().backward()
    for images, seed in ((first, 1), (second, 2)):
        alone = leaf(seed)
        wave(alone).sum().backward()
        assert torch.equal(images.grad, alone.grad)
    graphed(leaf(3)).sum().backward()
    assert recorder.replays == 4, "the graph is free again"


def test_a_pass_whose_way_back_is_given_up_frees_the_graph(graphed: Graphed, recorder: Recorder):
    lost = graphed(leaf(1))
    del lost
    gradient(graphed, leaf(2))
    assert recorder.replays == 3


def test_a_way_back_is_gone_once(graphed: Graphed):
    images = leaf(1)
    made = graphed(images).sum()
    made.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="goes back once"):
        made.backward()


def test_without_gradients_there_is_no_way_back(recorder: Recorder):
    with torch.inference_mode():
        graphed = Graphed(wave, [torch.rand(2, 3)], recorder)
        images = torch.rand(2, 3)
        assert torch.equal(graphed(images), wave(images))
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(Graphed(lambda ids: ids * 2.0, [tokens], recorder)(tokens), tokens * 2.0)


@pytest.mark.parametrize("wants_gradients", [True, False])
def test_a_graph_that_gives_something_else_is_refused(wants_gradients: bool):
    example = leaf(0) if wants_gradients else leaf(0).detach()
    with pytest.raises(GraphWrong, match="differs"):
        Graphed(lambda images: (images - 0.5).sin(), [example], Stale())


def test_no_number_is_no_agreement(recorder: Recorder):
    with pytest.raises(GraphWrong, match="nan"):
        Graphed(lambda images: images / 0 - images / 0, [leaf(0)], recorder)
