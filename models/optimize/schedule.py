"""Schedules: which optimizer, how fast at each step, when it starts anew, and when enough is enough."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.requests.options import DrawingOptions

_LOOK_EVERY = 10
"""Steps from one look at the loss to the next, where a drawing may end early: each waits for the device."""


@dataclass(frozen=True)
class Schedule:
    """How a drawing of so many steps learns."""

    options: DrawingOptions
    steps: int

    @property
    def stop_after(self) -> int:
        """Steps without a lower loss after which a drawing ends; 0: never."""
        return self.options.stop_after

    def rate(self, index: int) -> float:
        """The learning rate of step `index`, of 1 … steps."""
        options = self.options
        rate = options.learning_rate * 0.1 ** sum(
            index > drop * self.steps for drop in options.learning_rate_drops
        )
        held = options.learning_rate_hold * self.steps
        if index <= held or self.steps == 1:
            return rate
        return rate * (1 - (1 - options.learning_rate_end) * (index - held) / (self.steps - held))

    def set_rate(self, optimizer: torch.optim.Optimizer, index: int) -> None:
        """Give an optimizer the rate of step `index`."""
        for group in optimizer.param_groups:
            group["lr"] = self.rate(index) * group["share"]

    def restarts(self, index: int) -> bool:
        """Whether the optimizer starts anew with step `index`, because the rate drops."""
        return any(index - 1 <= drop * self.steps < index for drop in self.options.learning_rate_drops)

    def is_coarse(self, index: int) -> bool:
        """Whether step `index` is drawn at half the size."""
        return index <= round(self.options.coarse * self.steps) and self.options.coarse > 0

    def optimizer(self, latents: Mapping[str, Tensor], shares: Mapping[str, float]) -> torch.optim.Optimizer:
        """A new optimizer of a drawer's latents."""
        options, rate = self.options, self.options.learning_rate
        groups = [{"params": [tensor], "share": shares.get(name, 1.0)} for name, tensor in latents.items()]
        betas = (options.momentum, options.beta2)
        # on a GPU one kernel for all
        fused = all(tensor.is_cuda for tensor in latents.values())
        match options.optimizer:
            case "adam":
                return torch.optim.Adam(groups, lr=rate, betas=betas, fused=fused)
            case "adamw":
                return torch.optim.AdamW(
                    groups, lr=rate, betas=betas, weight_decay=options.weight_decay, fused=fused
                )
            case "sgd":
                return torch.optim.SGD(groups, lr=rate, momentum=options.momentum, fused=fused)


class Plateau:
    """Watches the loss on the device: when was its running mean last lower than ever?

    Args:
        patience: steps without that after which the drawing ends; 0: it never does.
    """

    def __init__(self, patience: int, device: torch.device) -> None:
        self._patience = patience
        # the running mean of the loss, its lowest value, and the step of that
        self._watch = torch.tensor([0.0, torch.inf, torch.inf], dtype=torch.float64, device=device)

    def add(self, loss: Tensor, index: int) -> None:
        """The loss of step `index`: a scalar."""
        if not self._patience:
            return
        is_first = self._watch[1].isinf()
        mean = torch.where(is_first, loss.double(), 0.8 * self._watch[0] + 0.2 * loss)
        is_lower = mean < self._watch[1] - 1e-4
        self._watch = torch.stack(
            [mean, torch.where(is_lower, mean, self._watch[1]), torch.where(is_lower, index, self._watch[2])]
        )

    def is_reached(self, index: int) -> bool:
        """Whether step `index` was the last one."""
        if not self._patience or index % _LOOK_EVERY:
            return False
        return index - float(self._watch[2]) >= self._patience

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it."""
        return {"plateau": self._watch} if self._patience else {}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `state` said."""
        if self._patience:
            self._watch = torch.from_numpy(arrays["plateau"]).to(self._watch.device)
