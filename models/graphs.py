"""CUDA graphs of networks, for one shape each: a pass of thousands of small kernels becomes one launch.

A graph reads and writes the same memory at each replay. So inputs are copied in and results out, and while
the way back of one pass is still to come, another pass is computed without the graph. What a graph gives is
compared with what its network gives before it is used.
https://docs.pytorch.org/docs/stable/notes/cuda.html#partial-network-capture
"""

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from models.company import Network

AGREEMENT = 0.999
"""The least cosine of what a graph gives and what its network does: both run the same kernels."""


class GraphWrong(RuntimeError):
    """A graph gives something else than its network."""


class Recorder(Protocol):
    """Records what runs on a device."""

    def warm_up(self, run: Callable[[], object]) -> None:
        """Run it a few times: what libraries choose at their first calls cannot be recorded."""

    def record(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Run it; returns what it made, and what runs it again into the same memory."""


class CudaRecorder:
    """Records CUDA graphs that share their memory: they are to be replayed in the order of recording."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, run: Callable[[], object]) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)

    def record(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            made = run()
        return made, graph.replay


class Graphed:
    """A network as a graph of its forward pass, and one of its way back if the example asks for gradients.

    Args:
        example: of the inputs: their shape, their precision, and whether gradients of them are wanted.
        recorder: of this network alone.

    Raises:
        GraphWrong
    """

    def __init__(self, network: Network, example: Tensor, recorder: Recorder) -> None:
        self._network = network
        self._input = example.detach().clone().requires_grad_(example.requires_grad)
        self._under_way: weakref.ref[object] | None = None  # the pass whose way back is still to come
        made: list[Tensor] = []

        def forward() -> Tensor:
            made[:] = [network(self._input)]
            return made[0]

        def back() -> Tensor:
            (gradient,) = torch.autograd.grad(made[0], self._input, self._slopes)
            return gradient

        if not example.requires_grad:
            recorder.warm_up(forward)
            self._output, self._forward = recorder.record(forward)
        else:
            self._slopes = torch.randn_like(network(self._input).detach())
            recorder.warm_up(lambda: (forward(), back()))
            self._output, self._forward = recorder.record(forward)
            self._gradient, self._back = recorder.record(back)
        self._compare(example)

    def __call__(self, images: Tensor) -> Tensor:
        if not self._input.requires_grad:
            return self.forth(images)
        if self._under_way is not None and self._under_way() is not None:
            return self._network(images)
        made: Tensor = _Replay.apply(images, self)
        return made

    def forth(self, images: Tensor) -> Tensor:
        """What the network makes of a batch."""
        self._input.detach().copy_(images)
        self._forward()
        return self._output.detach().clone()

    def back(self, slopes: Tensor) -> Tensor:
        """The gradient of the last batch, from that of what was made of it."""
        self._slopes.copy_(slopes)
        self._back()
        return self._gradient.clone()

    def begin(self) -> object:
        """A pass that has a way back: it is over when nobody holds what is returned."""
        one = _Pass()
        self._under_way = weakref.ref(one)
        return one

    def _compare(self, example: Tensor) -> None:
        images = (torch.rand_like(example) if example.is_floating_point() else example).detach()
        images.requires_grad_(example.requires_grad)
        expected, made = self._network(images), self(images)
        _check(expected, made)
        if example.requires_grad:
            slopes = torch.randn_like(made)
            _check(*(torch.autograd.grad(one, images, slopes)[0] for one in (expected, made)))


def _check(expected: Tensor, made: Tensor) -> None:
    cosine = torch.cosine_similarity(expected.float().flatten(), made.float().flatten(), dim=0)
    if not cosine >= AGREEMENT:  # nor is a graph right that gives no number
        raise GraphWrong(f"a graph differs from its network: cosine {cosine:.4f}")


class _Pass:
    """One that is under way."""


class _Replay(torch.autograd.Function):
    """Forth and back by graphs."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, graphed: Graphed) -> Tensor:
        ctx.graphed, ctx.under_way = (
            graphed,
            graphed.begin(),
        )  # torch keeps it as long as the way back is open
        return graphed.forth(images)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        if ctx.under_way is None:
            raise RuntimeError("a graph goes back once")
        gradient = ctx.graphed.back(slopes)
        ctx.under_way = None
        return gradient, None
