"""Parts of a step compiled for the shapes of a warm-up. Any other shape is computed as it is.

`torch.compile` takes a minute or so for a network and a shape, so nothing is compiled while somebody waits.
On a CPU it hardly pays (decision 15); it is there for GPUs, whose steps are thousands of small kernels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor

from models.runtime.batched_steps import Function, Network, StepScheduler
from models.runtime.cuda_graphs import CudaRecorder, Graphed

Prepare = Callable[..., Function]
"""A function, then examples of its inputs -> the function for inputs like these."""


def compiled(function: Function, *examples: Tensor, graphs: bool = False) -> Function:
    """A function for inputs like the examples, and for nothing else. Slow.

    It is not asked at each call whether anything has changed since, such as the number of threads: a compiler
    that starts again would stop all that wait. Who calls it knows that nothing has.

    Args:
        graphs: also capture it, where the examples are on a GPU.

    Raises:
        models.runtime.cuda_graphs.GraphWrong, and whatever a compiler raises.
    """

    def forward(*tensors: Tensor) -> Tensor:
        return function(*tensors)

    # torch keeps what it compiled by a function's code: without questions, what is for one example only
    # must have a code of its own, all in one piece
    forward.__code__ = forward.__code__.replace()
    made: Function = torch.compile(
        forward,
        fullgraph=True,
        dynamic=False,
        options={"guard_filter_fn": lambda guards: [False] * len(guards)},
    )
    made(*examples)
    return Graphed(made, examples, CudaRecorder()) if graphs and examples[0].device.type == "cuda" else made


class Compiled:
    """A `StepScheduler` whose functions are compiled once.

    Args:
        scheduler: the one that runs them.
        most: drawings in one pass of a network, at most.
    """

    def __init__(self, scheduler: StepScheduler, prepare: Prepare = compiled, *, most: int = 1) -> None:
        self._scheduler, self._prepare, self._most = scheduler, prepare, most
        self._prepared: dict[object, Function] = {}  # by `_key`
        self._learns = False

    @property
    def shapes(self) -> int:
        """How many shapes are compiled."""
        return len(self._prepared)

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        """Compile the shapes that are met in this context. If one fails, none is compiled."""
        self._learns = True
        try:
            yield
        except BaseException:
            self._prepared.clear()
            raise
        finally:
            self._learns = False

    def session(self) -> AbstractContextManager[None]:
        return self._scheduler.session()

    def step(self) -> AbstractContextManager[None]:
        return self._scheduler.step()

    def alone(self) -> AbstractContextManager[None]:
        return self._scheduler.alone()

    def forward(self, kind: object, network: Network, images: Tensor) -> Tensor:
        if self._learns and images.requires_grad:  # a preview is not batched
            for count in range(2, self._most + 1):
                self._learn(kind, network, torch.cat([images] * count))
        return self._scheduler.forward(kind, partial(self._as_prepared, kind, network), images)

    def compute(self, function: Function, *tensors: Tensor) -> Tensor:
        return self._scheduler.compute(partial(self._as_prepared, function, function), *tensors)

    def backward(self, loss: Tensor) -> None:
        self._scheduler.backward(loss)

    def _as_prepared(self, kind: object, function: Function, *tensors: Tensor) -> Tensor:
        if self._learns:
            self._learn(kind, function, *tensors)
        return self._prepared.get(_key(kind, tensors), function)(*tensors)

    def _learn(self, kind: object, function: Function, *tensors: Tensor) -> None:
        if (key := _key(kind, tensors)) not in self._prepared:
            leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]
            self._prepared[key] = self._prepare(function, *leaves)


def _key(kind: object, tensors: Sequence[Tensor]) -> object:
    shapes = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
    return kind, shapes, tensors[0].requires_grad and torch.is_grad_enabled()


class Padded:
    """A network that is compiled for a few shapes; smaller batches are padded to the next of them with zeros.

    Args:
        network: whose first rows do not depend on what is padded.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._prepared: dict[tuple[int, ...], Network] = {}  # the smallest first

    def compile(self, examples: Sequence[Tensor], prepare: Prepare) -> None:
        """For the shapes of these. If one fails, none is compiled."""
        examples = sorted(examples, key=Tensor.numel)
        self._prepared = {tuple(example.shape): prepare(self._network, example) for example in examples}

    def __call__(self, batch: Tensor) -> Tensor:
        for shape, network in self._prepared.items():
            if all(size <= room for size, room in zip(batch.shape, shape, strict=True)):
                padded = batch.new_zeros(shape)
                padded[tuple(map(slice, batch.shape))] = batch
                return network(padded)[: len(batch)]
        return self._network(batch)
