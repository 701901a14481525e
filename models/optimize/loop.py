"""The loop: an optimizer moves what a picture is made of until a loss is low, one step at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.optimize.motion import Motion
from models.optimize.schedule import Plateau, Schedule
from models.requests import checkpoint as snapshots
from models.requests.generator import GenerationError, Step
from models.requests.request import GenerationRequest
from models.runtime.batched_steps import Company, FailedTogether


class Drawer(Protocol):
    """A picture with knobs."""

    @property
    def latents(self) -> Mapping[str, Tensor]:
        """What descent moves, by name; each requires grad. `absorb`, `move` and `scale` may replace them."""

    @property
    def rates(self) -> Mapping[str, float]:
        """Learning rates by the same names, as shares of the schedule's; 1 where none is given."""

    def render(self) -> Tensor:
        """(1, 3, H, W) in [0, 1], differentiable in the latents; smaller while the scale is below 1."""

    def project(self) -> None:
        """Move the latents, in place, to the nearest ones that are valid."""

    def absorb(self, picture: Tensor) -> None:
        """Go on from a picture of the full size, as nearly as it can be drawn: (1, 3, H, W) in [0, 1]"""

    def move(self, motion: Motion) -> None:
        """Go on zoomed, shifted and turned."""

    def scale(self, share: float) -> None:
        """Go on at this share of the picture's size, 0.5 or 1; what is drawn is kept."""

    def from_start(self) -> Tensor:
        """Mean squared distance of the latents from where they started: a scalar."""


@runtime_checkable
class VectorDrawer(Protocol):
    """A drawer whose picture is made of shapes, too."""

    def svg(self) -> str:
        """What is drawn, without what the scene does to it, as an SVG document of the picture's full size."""


class Scene(Protocol):
    """What surrounds a drawer: what its picture should be, what is kept of others, how it moves."""

    def loss(self, image: Tensor, index: int) -> Tensor:
        """What the drawer rendered in step `index`, of 1 … steps: (1, 3, H, W) -> scalar"""

    def show(self, image: Tensor) -> Tensor:
        """What the drawer rendered, as it is shown to people: (1, 3, h, w) -> (1, 3, H, W)"""

    def disturb(self, index: int) -> bool:
        """Change the drawer before step `index`. True: the optimizer has to start anew."""

    def score(self, image: Tensor) -> Tensor:
        """Cosine of what is shown and the prompts: (1, 3, H, W) -> scalar"""

    def held_out_score(self, image: Tensor) -> Tensor | None:
        """Likewise, of a CLIP that does not guide; none: there is no such CLIP."""


@dataclass(frozen=True)
class Descent:
    """Which picture is drawn, and how fast.

    Attributes:
        rng: draws all that is random in the scene; its state goes into checkpoints.
        company: the drawings that this one shares a device with.
    """

    request: GenerationRequest
    seed: int
    rng: torch.Generator
    schedule: Schedule
    company: Company


def descend(
    drawer: Drawer, scene: Scene, descent: Descent, *, checkpoint: bytes | None = None
) -> Iterator[Step]:
    """Move a drawer's latents to where the scene's loss is low.

    Nothing in the loop waits for the device: what the functions of a step tell, they fetch when called. With
    `stop_after`, the loss is looked at every few steps.

    Args:
        checkpoint: a step's, of the same request and seed; the steps after it follow.

    Raises:
        CheckpointUnusable: at once, before the first step.
        GenerationError: from a step's functions, and after the last step, if a loss was not finite.
    """
    return _Run(drawer, scene, descent, checkpoint).steps()


class _Run:
    """One run of the loop, and what it remembers from step to step."""

    def __init__(self, drawer: Drawer, scene: Scene, descent: Descent, checkpoint: bytes | None) -> None:
        self._drawer, self._scene, self._descent = drawer, scene, descent
        self._schedule = descent.schedule
        self._done = 0
        restored = None
        if checkpoint is not None:
            restored = snapshots.unpack(checkpoint, request=descent.request, seed=descent.seed)
            self._done = restored[0]
        if self._schedule.is_coarse(self._done):
            drawer.scale(0.5)
        self._optimizer = self._schedule.optimizer(drawer.latents, drawer.rates)
        device = next(iter(drawer.latents.values())).device
        self._plateau = Plateau(self._schedule.stop_after, device)
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        if restored is not None:
            self._restore(restored[1])

    def steps(self) -> Iterator[Step]:
        drawer, request, company = self._drawer, self._descent.request, self._descent.company
        with company.member():
            for index in range(self._done + 1, request.steps + 1):
                with company.step():
                    value = self._step(index)
                ends_early = index < request.steps and self._plateau.is_reached(index)
                if ends_early or index == request.steps:
                    self._check()
                yield Step(
                    index=index,
                    total=request.steps,
                    render=self._pixels,
                    checkpoint=partial(self._save, index),
                    loss=partial(self._checked, value),
                    score=self._score,
                    held_out_score=self._held_out_score,
                    svg=self._svg if isinstance(drawer, VectorDrawer) else None,
                    ends_early=ends_early,
                )
                if ends_early:
                    return

    def _step(self, index: int) -> Tensor:
        """The loss of step `index`: a scalar."""
        self._prepare(index)
        before = self._descent.rng.get_state()
        try:
            loss = self._differentiate(index)
        except FailedTogether:
            self._descent.rng.set_state(before)
            with self._descent.company.alone():
                loss = self._differentiate(index)
        self._optimizer.step()
        with torch.no_grad():
            self._drawer.project()
            value = loss.detach()
            self._finite &= value.isfinite()
            if not self._schedule.is_coarse(index):  # a loss of another scale, and none to end with
                self._plateau.add(value, index)
        return value

    def _differentiate(self, index: int) -> Tensor:
        """The loss of step `index`, whose gradients the latents have then: a scalar."""
        loss = self._scene.loss(self._drawer.render(), index)
        self._optimizer.zero_grad(set_to_none=True)
        self._descent.company.descend(loss)
        return loss

    def _prepare(self, index: int) -> None:
        refined = self._schedule.is_coarse(index - 1) and not self._schedule.is_coarse(index)
        if refined:
            self._drawer.scale(1)
        if self._scene.disturb(index) or refined or self._schedule.restarts(index):
            self._optimizer = self._schedule.optimizer(self._drawer.latents, self._drawer.rates)
        self._schedule.set_rate(self._optimizer, index)

    def _shown(self) -> Tensor:
        self._check()
        with torch.no_grad():
            return self._scene.show(self._drawer.render())

    def _pixels(self) -> NDArray[np.uint8]:
        image = self._shown()[0].clamp(0, 1).permute(1, 2, 0)
        return image.mul(255).round().to("cpu", torch.uint8).numpy()

    def _score(self) -> float:
        with torch.no_grad():
            return float(self._scene.score(self._shown()))

    def _held_out_score(self) -> float | None:
        with torch.no_grad():
            score = self._scene.held_out_score(self._shown())
            return None if score is None else float(score)

    def _svg(self) -> str:
        self._check()
        assert isinstance(self._drawer, VectorDrawer)
        return self._drawer.svg()

    def _checked(self, value: Tensor) -> float:
        self._check()
        return float(value)

    def _check(self) -> None:
        if not self._finite:
            raise GenerationError("the loss is no longer finite; a lower learning_rate may help")

    def _save(self, index: int) -> bytes:
        self._check()
        tensors: dict[str, Tensor] = dict(self._drawer.latents) | self._plateau.state()
        for name, latents in self._drawer.latents.items():
            for key, value in self._optimizer.state[latents].items():
                if value is not None:
                    tensors[f"{name}.{key}"] = torch.as_tensor(value)
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        arrays["rng"] = self._descent.rng.get_state().numpy()
        return snapshots.pack(arrays, request=self._descent.request, seed=self._descent.seed, step=index)

    def _restore(self, arrays: dict[str, NDArray[np.generic]]) -> None:
        with torch.no_grad():
            for name, latents in self._drawer.latents.items():
                like = latents.detach().cpu().numpy()
                latents.copy_(torch.from_numpy(snapshots.take(arrays, name, like)))
                self._optimizer.state[latents] = {
                    key.removeprefix(f"{name}."): self._moment(array, latents)
                    for key, array in arrays.items()
                    if key.startswith(f"{name}.")
                }
            self._plateau.restore(
                {
                    name: snapshots.take(arrays, name, value.cpu().numpy())
                    for name, value in self._plateau.state().items()
                }
            )
        rng = self._descent.rng
        rng.set_state(torch.from_numpy(snapshots.take(arrays, "rng", rng.get_state().numpy())))

    def _moment(self, array: NDArray[np.generic], latents: Tensor) -> Tensor:
        tensor = torch.from_numpy(array)
        # an optimizer that is one kernel counts its steps on the device, the others on the CPU
        stays = tensor.ndim == 0 and not self._optimizer.defaults["fused"]
        return tensor if stays else tensor.to(latents.device)
