"""Drawings of several threads on one device: each has its turn, or all take their steps together.

A drawing asks for what its networks make, and for its gradients; a company answers. `Alternating` answers
at once, in turns of a step: on a CPU, where one drawing keeps the cores busy, that is as fast as one after
the other, and each gets the bytes it gets alone. `Joined` waits until all that are in a step have asked, and
answers the asks of one kind by one pass of the network: a GPU has room for more than one drawing needs.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

PATIENCE_S = 0.02
"""How long a step of others is put off for a drawing that is between two of its own."""

Network = Callable[[Tensor], Tensor]

Function = Callable[..., Tensor]
"""Of tensors, differentiable in the first of them."""

Compute = Callable[..., Tensor]
"""A function, then tensors -> what it makes of them, as `Company.compute`"""


def at_once(function: Function, *tensors: Tensor) -> Tensor:
    """What a function makes of tensors, as it is."""
    return function(*tensors)


class FailedTogether(RuntimeError):
    """A pass that drawings shared failed and cannot be repeated: each has to take its step again, alone."""


class Company(Protocol):
    """The drawings that share a device."""

    def member(self) -> AbstractContextManager[None]:
        """While it is entered, this thread draws."""

    def step(self) -> AbstractContextManager[None]:
        """While it is entered, this thread is in a step."""

    def alone(self) -> AbstractContextManager[None]:
        """While it is entered, this thread's step shares nothing, and no other step that is alone runs."""

    def answer(self, kind: object, network: Network, images: Tensor) -> Tensor:
        """What a network makes of a batch, differentiable in it.

        Args:
            kind: equal for asks that one pass of the network may answer, if their shapes fit too.
        """

    def compute(self, function: Function, *tensors: Tensor) -> Tensor:
        """What a function makes of what is a drawing's own; nothing is shared but the function."""

    def descend(self, loss: Tensor) -> None:
        """Add a loss's gradients to those of the leaves that it is made of.

        Raises:
            FailedTogether
        """


class Alternating:
    """One drawing at a time, in the order in which they ask for a step."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[int] = []  # threads; the first has its turn

    @contextmanager
    def member(self) -> Iterator[None]:
        yield

    @contextmanager
    def step(self) -> Iterator[None]:
        with self._changed:
            self._waiting.append(me := threading.get_ident())
            self._changed.wait_for(lambda: self._waiting[0] == me)
        try:
            yield
        finally:
            with self._changed:
                self._waiting.pop(0)
                self._changed.notify_all()

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()

    def answer(self, kind: object, network: Network, images: Tensor) -> Tensor:
        return network(images)

    def compute(self, function: Function, *tensors: Tensor) -> Tensor:
        return function(*tensors)

    def descend(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped


@dataclass
class _Ask:
    """What a drawing waits for."""

    kind: object
    network: Network | None  # none: gradients
    tensor: Tensor
    has_slopes: bool  # whether the drawing follows gradients just now
    result: Tensor | None = None
    error: BaseException | None = None
    is_answered: bool = False


class Joined:
    """All drawings at once, in rounds of a step.

    A drawing that comes while the others are in a step waits for the next round. Pictures differ by rounding
    from those drawn alone: the sums of a convolution depend on the size of its batch.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._one = threading.Lock()  # of those that are alone
        self._members = self._round = self._at_door = self._expected = 0
        self._inside: set[int] = set()  # threads in a step
        self._asks: list[_Ask] = []
        self._is_computing = False

    @contextmanager
    def member(self) -> Iterator[None]:
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    @contextmanager
    def step(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            with self._changed:
                self._inside.discard(threading.get_ident())
                self._changed.notify_all()  # those that are left may all be waiting for answers

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._inside.discard(threading.get_ident())
            self._changed.notify_all()
        with self._one:
            yield

    def answer(self, kind: object, network: Network, images: Tensor) -> Tensor:
        if threading.get_ident() not in self._inside:  # such as a preview
            return network(images)
        result = self._ask(_Ask(kind, network, images, torch.is_grad_enabled()))
        assert result is not None
        return result

    def compute(self, function: Function, *tensors: Tensor) -> Tensor:
        return function(*tensors)

    def descend(self, loss: Tensor) -> None:
        if threading.get_ident() not in self._inside:
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return
        self._ask(_Ask("gradients", None, loss, True))

    def _count(self, more: int) -> None:
        with self._changed:
            self._members += more
            self._changed.notify_all()

    def _enter(self) -> None:
        with self._changed:
            self._at_door += 1
            mine, since_s = self._round, time.monotonic()
            self._changed.notify_all()
            while self._round == mine:
                left_s = since_s + self._patience_s - time.monotonic()
                if self._inside:
                    self._changed.wait()
                    since_s = time.monotonic()  # the others are between two steps only now
                elif self._at_door >= self._members or left_s <= 0:
                    self._round += 1
                    self._expected, self._at_door = self._at_door, 0
                    self._inside = {threading.get_ident()}
                    self._changed.notify_all()
                else:
                    self._changed.wait(left_s)
            self._inside.add(threading.get_ident())
            self._expected -= 1
            self._changed.notify_all()

    def _ask(self, ask: _Ask) -> Tensor | None:
        with self._changed:
            self._asks.append(ask)
            self._changed.notify_all()
            while not ask.is_answered:
                if self._is_computing or self._expected or len(self._asks) < len(self._inside):
                    self._changed.wait()
                    continue
                asks, self._asks, self._is_computing = self._asks, [], True
                self._changed.release()
                try:
                    _answer(asks)
                finally:
                    self._changed.acquire()
                    self._is_computing = False
                    self._changed.notify_all()
        if ask.error is not None:
            raise ask.error
        return ask.result


def _answer(asks: Sequence[_Ask]) -> None:
    """Answer all, those of one kind and shape by one pass. What fails together is tried apart."""
    groups: dict[Any, list[_Ask]] = {}
    for ask in asks:
        shape = () if ask.network is None else (ask.tensor.shape[1:], ask.tensor.dtype)
        groups.setdefault((ask.kind, shape, ask.has_slopes), []).append(ask)
    for group in groups.values():
        try:
            _answer_together(group)
        except Exception as error:
            for ask in group:
                try:
                    if ask.network is None and len(group) > 1:
                        raise FailedTogether(str(error)) from error
                    _answer_together([ask])
                except Exception as own:
                    ask.error = own
    for ask in asks:
        ask.is_answered = True


def _answer_together(group: Sequence[_Ask]) -> None:
    network = group[0].network
    if network is None:
        torch.autograd.backward([ask.tensor for ask in group])
        return
    with torch.set_grad_enabled(group[0].has_slopes):
        made = network(torch.cat([ask.tensor for ask in group]) if len(group) > 1 else group[0].tensor)
        results = torch.split(made, [len(ask.tensor) for ask in group])
    for ask, result in zip(group, results, strict=True):
        ask.result = result
