"""Networks compiled for the shapes of a warm-up. Any other shape is computed as if there were none of this.

`torch.compile` takes a minute or so for a network and a shape, so nothing is compiled while somebody waits.
On a CPU it does not pay (decision 15); it is there for GPUs, whose steps are thousands of small kernels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor

from models.company import Company, Network
from models.graphs import CudaRecorder, Graphed

Prepare = Callable[[Network, Tensor], Network]
"""A network, for inputs like an example."""


def compiled(network: Network, example: Tensor, *, graphs: bool = False) -> Network:
    """A network for inputs like the example, and for nothing else. Slow.

    It is not asked at each call whether anything has changed since, such as the number of threads: a compiler
    that starts again would stop all that wait. Who calls it knows that nothing has.

    Args:
        graphs: also capture it, where the example is on a GPU.

    Raises:
        models.graphs.GraphWrong, and whatever a compiler raises.
    """

    def forward(batch: Tensor) -> Tensor:
        return network(batch)

    # torch keeps what it compiled by a function's code: without questions, what is for one example only
    # must have a code of its own, all in one piece
    forward.__code__ = forward.__code__.replace()
    made: Network = torch.compile(
        forward,
        fullgraph=True,
        dynamic=False,
        options={"guard_filter_fn": lambda guards: [False] * len(guards)},
    )
    made(example)
    return Graphed(made, example, CudaRecorder()) if graphs and example.device.type == "cuda" else made


class Compiled:
    """A company whose networks are compiled once: `models.company.Company` says what its methods do.

    Args:
        company: the one that answers.
    """

    def __init__(self, company: Company, prepare: Prepare = compiled) -> None:
        self._company, self._prepare = company, prepare
        self._networks: dict[object, Network] = {}  # by what is asked of them
        self._learns = False

    @property
    def shapes(self) -> int:
        """How many are compiled."""
        return len(self._networks)

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        """Shapes that are met meanwhile are compiled. If that fails, none is: all goes on as before."""
        self._learns = True
        try:
            yield
        except BaseException:
            self._networks.clear()
            raise
        finally:
            self._learns = False

    def member(self) -> AbstractContextManager[None]:
        return self._company.member()

    def step(self) -> AbstractContextManager[None]:
        return self._company.step()

    def alone(self) -> AbstractContextManager[None]:
        return self._company.alone()

    def answer(self, kind: object, network: Network, images: Tensor) -> Tensor:
        return self._company.answer(kind, partial(self._compute, kind, network), images)

    def descend(self, loss: Tensor) -> None:
        self._company.descend(loss)

    def _compute(self, kind: object, network: Network, images: Tensor) -> Tensor:
        asked = (kind, images.shape, images.dtype, images.requires_grad and torch.is_grad_enabled())
        if self._learns and asked not in self._networks:
            self._networks[asked] = self._prepare(network, images)
        return self._networks.get(asked, network)(images)


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
