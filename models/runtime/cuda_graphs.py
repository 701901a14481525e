"""CUDA graphs of parts of a step, for one shape each: thousands of small kernels become one launch.

A graph reads and writes the same memory at each replay. So inputs are copied in and results out, and while
the way back of one pass is still to come, another pass is computed without the graph. What a graph gives is
compared with what its function gives before it is used.
https://docs.pytorch.org/docs/stable/notes/cuda.html#partial-network-capture
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from models.runtime.batched_steps import Function

AGREEMENT = 0.999
"""The least cosine of what a graph gives and what its function does: both run the same kernels."""


class GraphWrong(RuntimeError):
    """A graph gives something else than its function."""


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
    """A function as a graph of its forward pass, and one of its way back if the example asks for gradients.

    Args:
        examples: of the inputs: their shapes, their precision, and whether gradients of the first are wanted.
        recorder: of this function alone.

    Raises:
        GraphWrong
    """

    def __init__(self, function: Function, examples: Sequence[Tensor], recorder: Recorder) -> None:
        self._function = function
        example = examples[0]
        self._inputs = [tensor.detach().clone() for tensor in examples]
        self._input = self._inputs[0].requires_grad_(example.requires_grad)
        self._begins = threading.Lock()
        self._under_way: weakref.ref[object] | None = None  # the pass whose way back is still to come
        made: list[Tensor] = []

        def forward() -> Tensor:
            made[:] = [function(*self._inputs)]
            return made[0]

        def back() -> Tensor:
            (gradient,) = torch.autograd.grad(made[0], self._input, self._slopes)
            return gradient

        if not example.requires_grad:
            recorder.warm_up(forward)
            self._output, self._forward = recorder.record(forward)
        else:
            self._slopes = torch.randn_like(function(*self._inputs).detach())
            recorder.warm_up(lambda: (forward(), back()))
            self._output, self._forward = recorder.record(forward)
            self._gradient, self._back = recorder.record(back)
        self._compare(examples)

    def __call__(self, *tensors: Tensor) -> Tensor:
        with self._begins:
            if not self._input.requires_grad:
                return self.forth(tensors)
            if self._under_way is None or self._under_way() is None:
                made: Tensor = _Replay.apply(self, *tensors)
                return made
        return self._function(*tensors)

    def forth(self, tensors: Sequence[Tensor]) -> Tensor:
        """What the function makes of its inputs."""
        for kept, tensor in zip(self._inputs, tensors, strict=True):
            kept.detach().copy_(tensor)
        self._forward()
        return self._output.detach().clone()

    def back(self, slopes: Tensor) -> Tensor:
        """The gradient of the last first input, from that of what was made of it."""
        self._slopes.copy_(slopes)
        self._back()
        return self._gradient.clone()

    def begin(self) -> object:
        """A pass that has a way back: it is over when nobody holds what is returned."""
        one = _Pass()
        self._under_way = weakref.ref(one)
        return one

    def _compare(self, examples: Sequence[Tensor]) -> None:
        """With another first input than the one that was recorded, whose numbers are as likely."""
        first = examples[0].detach().flip(-1).requires_grad_(examples[0].requires_grad)
        expected, made = (compute(first, *examples[1:]) for compute in (self._function, self))
        _check(expected, made)
        if first.requires_grad:
            slopes = torch.randn_like(made)
            _check(*(torch.autograd.grad(one, first, slopes)[0] for one in (expected, made)))


def _check(expected: Tensor, made: Tensor) -> None:
    cosine = torch.cosine_similarity(expected.float().flatten(), made.float().flatten(), dim=0)
    if not cosine >= AGREEMENT:  # nor is a graph right that gives no number
        raise GraphWrong(f"a graph differs from its function: cosine {cosine:.4f}")


class _Pass:
    """One that is under way."""


class _Replay(torch.autograd.Function):
    """Forth and back by graphs."""

    @staticmethod
    def forward(ctx: Any, graphed: Graphed, *tensors: Tensor) -> Tensor:
        ctx.graphed, ctx.count = graphed, len(tensors)
        ctx.under_way = graphed.begin()  # torch keeps it as long as the way back is open
        return graphed.forth(tensors)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.under_way is None:
            raise RuntimeError("a graph goes back once")
        gradient = ctx.graphed.back(slopes)
        ctx.under_way = None
        return (None, gradient, *[None] * (ctx.count - 1))
