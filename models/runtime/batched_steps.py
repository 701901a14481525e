"""Drawings of several threads on one device: they take turns, or their steps run as one batch.

A drawing calls its networks, and its backward pass, through a scheduler. `RoundRobin` runs one step at a
time: on a CPU, where one drawing keeps the cores busy, that is no slower, and each drawing gets the bytes
that it gets alone. `Batched` waits until all drawings in a step have called, and runs the calls of one kind
as one pass of the network: a GPU has room for more than one drawing needs.
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
"""Seconds that a batched step waits for a drawing that is between two steps."""

Network = Callable[[Tensor], Tensor]

Function = Callable[..., Tensor]
"""Tensors to a tensor, differentiable in the first of them."""

Compute = Callable[..., Tensor]
"""Calls a function with tensors, as `StepScheduler.compute`."""


def at_once(function: Function, *tensors: Tensor) -> Tensor:
    """Call a function with tensors, without a scheduler."""
    return function(*tensors)


class FailedTogether(RuntimeError):
    """A shared backward pass failed and cannot be repeated: each drawing has to repeat its step alone."""


class StepScheduler(Protocol):
    """Runs the steps of the drawings that share a device."""

    def session(self) -> AbstractContextManager[None]:
        """Within this context, the thread draws."""

    def step(self) -> AbstractContextManager[None]:
        """Within this context, the thread takes a step."""

    def alone(self) -> AbstractContextManager[None]:
        """Within this context, the step is not batched, and no other step that is alone runs."""

    def forward(self, kind: object, network: Network, images: Tensor) -> Tensor:
        """The outputs of a network for a batch, differentiable in the batch.

        Args:
            kind: calls of equal kinds may run as one pass of the network, if their shapes fit too.
        """

    def compute(self, function: Function, *tensors: Tensor) -> Tensor:
        """Call a function with tensors of one drawing. Such calls are not batched, but may be compiled."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of its leaves.

        Raises:
            FailedTogether
        """


class RoundRobin:
    """One step at a time, in the order in which drawings begin theirs."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[int] = []  # threads; the first takes its step

    @contextmanager
    def session(self) -> Iterator[None]:
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

    def forward(self, kind: object, network: Network, images: Tensor) -> Tensor:
        return network(images)

    def compute(self, function: Function, *tensors: Tensor) -> Tensor:
        return function(*tensors)

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped


@dataclass
class _Call:
    """A call that a drawing waits for."""

    kind: object
    network: Network | None  # none: a backward pass
    tensor: Tensor
    needs_grad: bool  # whether the drawing has gradients enabled
    result: Tensor | None = None
    error: BaseException | None = None
    is_done: bool = False


class Batched:
    """All drawings at once, in rounds of a step.

    A drawing that begins while the others are in a step waits for the next round. Images differ by rounding
    from those drawn alone: the sums of a convolution depend on the size of its batch.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._alone = threading.Lock()
        self._members = self._round = self._waiting = self._expected = 0
        self._inside: set[int] = set()  # threads in a step
        self._calls: list[_Call] = []
        self._is_computing = False

    @contextmanager
    def session(self) -> Iterator[None]:
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
                self._changed.notify_all()  # the others may all be waiting for their calls

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._inside.discard(threading.get_ident())
            self._changed.notify_all()
        with self._alone:
            yield

    def forward(self, kind: object, network: Network, images: Tensor) -> Tensor:
        if threading.get_ident() not in self._inside:  # such as a preview
            return network(images)
        result = self._call(_Call(kind, network, images, torch.is_grad_enabled()))
        assert result is not None
        return result

    def compute(self, function: Function, *tensors: Tensor) -> Tensor:
        return function(*tensors)

    def backward(self, loss: Tensor) -> None:
        if threading.get_ident() not in self._inside:
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return
        self._call(_Call("gradients", None, loss, True))

    def _count(self, more: int) -> None:
        with self._changed:
            self._members += more
            self._changed.notify_all()

    def _enter(self) -> None:
        with self._changed:
            self._waiting += 1
            mine, since_s = self._round, time.monotonic()
            self._changed.notify_all()
            while self._round == mine:
                left_s = since_s + self._patience_s - time.monotonic()
                if self._inside:
                    self._changed.wait()
                    since_s = time.monotonic()  # the others have just ended a step
                elif self._waiting >= self._members or left_s <= 0:
                    self._round += 1
                    self._expected, self._waiting = self._waiting, 0
                    self._inside = {threading.get_ident()}
                    self._changed.notify_all()
                else:
                    self._changed.wait(left_s)
            self._inside.add(threading.get_ident())
            self._expected -= 1
            self._changed.notify_all()

    def _call(self, call: _Call) -> Tensor | None:
        with self._changed:
            self._calls.append(call)
            self._changed.notify_all()
            while not call.is_done:
                if self._is_computing or self._expected or len(self._calls) < len(self._inside):
                    self._changed.wait()
                    continue
                calls, self._calls, self._is_computing = self._calls, [], True
                self._changed.release()
                try:
                    _run(calls)
                finally:
                    self._changed.acquire()
                    self._is_computing = False
                    self._changed.notify_all()
        if call.error is not None:
            raise call.error
        return call.result


def _run(calls: Sequence[_Call]) -> None:
    """Run all calls, those of one kind and shape as one pass. If that fails, run each call alone."""
    groups: dict[Any, list[_Call]] = {}
    for call in calls:
        shape = () if call.network is None else (call.tensor.shape[1:], call.tensor.dtype)
        groups.setdefault((call.kind, shape, call.needs_grad), []).append(call)
    for group in groups.values():
        try:
            _run_group(group)
        except Exception as error:
            for call in group:
                try:
                    if call.network is None and len(group) > 1:
                        raise FailedTogether(str(error)) from error
                    _run_group([call])
                except Exception as own:
                    call.error = own
    for call in calls:
        call.is_done = True


def _run_group(group: Sequence[_Call]) -> None:
    network = group[0].network
    if network is None:
        torch.autograd.backward([call.tensor for call in group])
        return
    with torch.set_grad_enabled(group[0].needs_grad):
        outputs = network(torch.cat([call.tensor for call in group]) if len(group) > 1 else group[0].tensor)
        results = torch.split(outputs, [len(call.tensor) for call in group])
    for call, result in zip(group, results, strict=True):
        call.result = result
