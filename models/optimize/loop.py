"""The optimization loop: an optimizer moves an image's parameters until a loss is low, one step at a time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.optimize.drawer import Drawer
from models.requests import checkpoint
from models.requests.generator import Drawing, GenerationError, Step
from models.requests.options import DrawingOptions
from models.runtime.batched_steps import FailedTogether, StepScheduler

_CHECK_EVERY = 10
"""Steps between two checks of the plateau: each check waits for the device."""


class Objective(Protocol):
    """What a drawer's image should become."""

    rng: torch.Generator  # the source of the loss's randomness; checkpoints keep its state

    def __call__(self, image: Tensor, index: int) -> Tensor:
        """The loss of the rendered image in step `index`, of 1 … steps: (1, 3, H, W) -> scalar"""

    def before_step(self, index: int) -> bool:
        """Change the drawer before step `index`. True: the optimizer has to start anew."""

    def show(self, image: Tensor) -> Tensor:
        """The rendered image as people see it: (1, 3, h, w) -> (1, 3, H, W)"""

    def score(self, image: Tensor) -> float:
        """Cosine similarity of a shown image (1, 3, H, W) and the prompts, of the last step's weights."""

    def held_out_score(self, image: Tensor) -> float | None:
        """Likewise, by a CLIP that does not guide; None: there is none."""


def optimize(
    drawer: Drawer, objective: Objective, drawing: Drawing, options: DrawingOptions, scheduler: StepScheduler
) -> Iterator[Step]:
    """Move a drawer's latents to where the objective's loss is low.

    Nothing in the loop waits for the device, except that `stop_after` checks the loss every few steps: the
    functions of a step fetch their values when they are called.

    Raises:
        CheckpointUnusable: at once, before the first step.
        GenerationError: from a step's functions, and after the last step, if a loss was not finite.
    """
    state = _State(drawer, objective, drawing, Schedule(options, drawing.request.steps))
    total = drawing.request.steps

    def gradient(index: int) -> Tensor:
        loss = objective(drawer.render(), index)
        state.optimizer.zero_grad(set_to_none=True)
        scheduler.backward(loss)
        return loss.detach()

    def steps() -> Iterator[Step]:
        with scheduler.session():
            for index in range(state.done + 1, total + 1):
                with scheduler.step():
                    state.prepare(index)
                    before = objective.rng.get_state()
                    try:
                        loss = gradient(index)
                    except FailedTogether:
                        objective.rng.set_state(before)
                        with scheduler.alone():
                            loss = gradient(index)
                    state.update(loss, index)
                ends_early = index < total and state.plateau.is_reached(index)
                if ends_early or index == total:
                    state.check()
                yield state.step(loss, index, ends_early=ends_early)
                if ends_early:
                    return

    return steps()


class _State:
    """What the loop keeps from step to step."""

    def __init__(self, drawer: Drawer, objective: Objective, drawing: Drawing, schedule: "Schedule") -> None:
        self._drawer, self._objective, self._drawing, self._schedule = drawer, objective, drawing, schedule
        self.done, arrays = 0, None
        if drawing.resume_from is not None:
            self.done, arrays = checkpoint.unpack(
                drawing.resume_from, request=drawing.request, seed=drawing.seed
            )
        if schedule.is_coarse(self.done):
            drawer.set_resolution(0.5)
        self.optimizer = schedule.optimizer(drawer.latents, drawer.rates)
        device = next(iter(drawer.latents.values())).device
        self.plateau = Plateau(schedule.options.stop_after, device)
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        if arrays is not None:
            self._restore(arrays)

    def prepare(self, index: int) -> None:
        """Set the resolution, the optimizer and its rate for step `index`."""
        drawer, schedule = self._drawer, self._schedule
        refined = schedule.is_coarse(index - 1) and not schedule.is_coarse(index)
        if refined:
            drawer.set_resolution(1)
        if self._objective.before_step(index) or refined or schedule.restarts(index):
            self.optimizer = schedule.optimizer(drawer.latents, drawer.rates)
        schedule.set_rate(self.optimizer, index)

    @torch.no_grad()
    def update(self, loss: Tensor, index: int) -> None:
        """Take the optimizer's step by the gradients of this loss, a scalar."""
        self.optimizer.step()
        self._drawer.project()
        self._finite &= loss.isfinite()
        if not self._schedule.is_coarse(index):  # the loss at half the size has another scale
            self.plateau.add(loss, index)

    def step(self, loss: Tensor, index: int, *, ends_early: bool) -> Step:
        return Step(
            index=index,
            total=self._drawing.request.steps,
            render=self._pixels,
            checkpoint=partial(self._save, index),
            loss=partial(self._checked, loss),
            score=self._score,
            held_out_score=self._held_out_score,
            svg=None if self._drawer.svg is None else partial(self._svg, self._drawer.svg),
            ends_early=ends_early,
        )

    def check(self) -> None:
        """Raise GenerationError if a loss was not finite."""
        if not self._finite:
            raise GenerationError("the loss is no longer finite; a lower learning_rate may help")

    @torch.no_grad()
    def _shown(self) -> Tensor:
        self.check()
        return self._objective.show(self._drawer.render())

    def _pixels(self) -> NDArray[np.uint8]:
        return to_pixels(self._shown()[0].clamp(0, 1))

    @torch.no_grad()
    def _score(self) -> float:
        return self._objective.score(self._shown())

    @torch.no_grad()
    def _held_out_score(self) -> float | None:
        return self._objective.held_out_score(self._shown())

    def _svg(self, svg: Callable[[], str]) -> str:
        self.check()
        return svg()

    def _checked(self, loss: Tensor) -> float:
        self.check()
        return float(loss)

    def _save(self, index: int) -> bytes:
        self.check()
        tensors: dict[str, Tensor] = dict(self._drawer.latents) | self.plateau.state()
        for name, latents in self._drawer.latents.items():
            for key, value in self.optimizer.state[latents].items():
                if value is not None:
                    tensors[f"{name}.{key}"] = torch.as_tensor(value)
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        arrays["rng"] = self._objective.rng.get_state().numpy()
        return checkpoint.pack(arrays, request=self._drawing.request, seed=self._drawing.seed, step=index)

    @torch.no_grad()
    def _restore(self, arrays: checkpoint.Arrays) -> None:
        for name, latents in self._drawer.latents.items():
            latents.copy_(checkpoint.take_tensor(arrays, name, latents.detach()))
            self.optimizer.state[latents] = {
                key.removeprefix(f"{name}."): self._moment(array, latents)
                for key, array in arrays.items()
                if key.startswith(f"{name}.")
            }
        for name, value in self.plateau.state().items():
            value.copy_(checkpoint.take_tensor(arrays, name, value))
        rng = self._objective.rng
        rng.set_state(checkpoint.take_tensor(arrays, "rng", rng.get_state()))

    def _moment(self, array: NDArray[np.generic], latents: Tensor) -> Tensor:
        tensor = torch.from_numpy(array)
        # a fused optimizer counts its steps on the device, the others on the CPU
        stays = tensor.ndim == 0 and not self.optimizer.defaults["fused"]
        return tensor if stays else tensor.to(latents.device)


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) in [0, 1] -> (H, W, 3) in 0 … 255, on the CPU"""
    return image.permute(1, 2, 0).mul(255).round().to("cpu", torch.uint8).numpy()


@dataclass(frozen=True)
class Schedule:
    """The optimizer, its learning rate at each step, and where it starts anew."""

    options: DrawingOptions
    steps: int

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
        """Set the rate of step `index`, of each group its share."""
        for group in optimizer.param_groups:
            group["lr"] = self.rate(index) * group["share"]

    def restarts(self, index: int) -> bool:
        """Whether the optimizer starts anew with step `index` because the rate drops."""
        return any(index - 1 <= drop * self.steps < index for drop in self.options.learning_rate_drops)

    def is_coarse(self, index: int) -> bool:
        """Whether step `index` is drawn at half the size."""
        return index <= round(self.options.coarse * self.steps) and self.options.coarse > 0

    def optimizer(self, latents: Mapping[str, Tensor], shares: Mapping[str, float]) -> torch.optim.Optimizer:
        """A new optimizer of a drawer's latents."""
        options, rate = self.options, self.options.learning_rate
        groups = [{"params": [tensor], "share": shares.get(name, 1.0)} for name, tensor in latents.items()]
        betas = (options.momentum, options.beta2)
        fused = all(tensor.is_cuda for tensor in latents.values())  # on a GPU, one kernel for all
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
    """Watches the running mean of the loss on the device, and remembers the step of its lowest value.

    Args:
        patience: steps without a lower mean after which the drawing ends; 0: it never does.
    """

    def __init__(self, patience: int, device: torch.device) -> None:
        self._patience = patience
        # the running mean of the loss, its lowest value, and the step of that
        self._watch = torch.tensor([0.0, torch.inf, torch.inf], dtype=torch.float64, device=device)

    def add(self, loss: Tensor, index: int) -> None:
        """Add the loss of step `index`, a scalar."""
        if not self._patience:
            return
        is_first = self._watch[1].isinf()
        mean = torch.where(is_first, loss.double(), 0.8 * self._watch[0] + 0.2 * loss)
        is_lower = mean < self._watch[1] - 1e-4
        self._watch = torch.stack(
            [mean, torch.where(is_lower, mean, self._watch[1]), torch.where(is_lower, index, self._watch[2])]
        )

    def is_reached(self, index: int) -> bool:
        """Whether step `index` is the last one."""
        if not self._patience or index % _CHECK_EVERY:
            return False
        return index - float(self._watch[2]) >= self._patience

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"plateau": self._watch} if self._patience else {}
