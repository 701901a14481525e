"""Networks compiled for the shapes of a warm-up. Any other shape is computed as if there were none of this.

`torch.compile` takes a minute or so for a network and a shape, so nothing is compiled while somebody waits.
On a CPU it does not pay (decision 15); it is there for GPUs, whose steps are thousands of small kernels.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor

from models.company import Company, Network


class Compiled:
    """A company whose networks are compiled once: `models.company.Company` says what its methods do.

    Args:
        company: the one that answers.
        compile_network: what compiles; torch's own, if not said.
    """

    def __init__(
        self,
        company: Company,
        compile_network: Callable[[Network], Network] | None = None,
    ) -> None:
        self._company = company
        self._compile = compile_network or partial(torch.compile, dynamic=False)
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
            self._networks[asked] = self._compile(network)
        return self._networks.get(asked, network)(images)
