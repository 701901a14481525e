"""The loop: Adam moves what a picture is made of until a loss is low, one step at a time."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import snapshots
from models.generators import GenerationError, GenerationRequest, Step

_CHECK_EVERY = 10
"""Steps from one look at the loss to the next: each look makes the CPU wait for the device."""


class Drawer(Protocol):
    """A picture with knobs."""

    latents: Tensor  # what descent moves; requires grad

    def render(self) -> Tensor:
        """(1, 3, H, W) in [0, 1], differentiable in the latents."""

    def project(self) -> None:
        """Move the latents, in place, to the nearest ones that are valid."""


@dataclass(frozen=True)
class Descent:
    """How long, how fast, and where from.

    Attributes:
        rng: draws all that is random in the loss; its state goes into checkpoints.
        learning_rate: of Adam.
        hold: share of the steps that have the full rate; then it falls in a line.
        end: the last step's rate, as a share of the first's.
    """

    request: GenerationRequest
    seed: int
    rng: torch.Generator
    learning_rate: float
    hold: float = 1.0
    end: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)

    def rate(self, index: int) -> float:
        """The learning rate of step `index`, of 1 … steps."""
        steps = self.request.steps
        held = self.hold * steps
        if index <= held or steps == 1:
            return self.learning_rate
        return self.learning_rate * (1 - (1 - self.end) * (index - held) / (steps - held))


def descend(
    drawer: Drawer,
    loss_of: Callable[[Tensor], Tensor],
    descent: Descent,
    *,
    score_of: Callable[[Tensor], Tensor] | None = None,
    checkpoint: bytes | None = None,
) -> Iterator[Step]:
    """Move a drawer's latents with Adam to where `loss_of(drawer.render())` is low.

    Args:
        loss_of: (1, 3, H, W) -> scalar
        score_of: (1, 3, H, W) -> scalar
        checkpoint: a step's, of the same request and seed; the steps after it follow.

    Raises:
        CheckpointUnusable: at once, before the first step.
        GenerationError: the loss is no longer finite.
    """
    latents, request = drawer.latents, descent.request
    optimizer = torch.optim.Adam([latents], lr=descent.learning_rate, betas=descent.betas)
    done = 0 if checkpoint is None else _restore(checkpoint, latents, optimizer, descent)

    def pixels() -> NDArray[np.uint8]:
        with torch.no_grad():
            image = drawer.render()[0].clamp(0, 1).permute(1, 2, 0)
            return image.mul(255).round().to("cpu", torch.uint8).numpy()

    def score() -> float:
        assert score_of is not None
        with torch.no_grad():
            return float(score_of(drawer.render()))

    def steps() -> Iterator[Step]:
        for index in range(done + 1, request.steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = descent.rate(index)
            loss = loss_of(drawer.render())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            with torch.no_grad():
                drawer.project()
            value = loss.detach()
            if (index % _CHECK_EVERY == 0 or index == request.steps) and not math.isfinite(value):
                raise GenerationError(f"the loss is no longer finite at step {index}")
            yield Step(
                index=index,
                total=request.steps,
                render=pixels,
                checkpoint=partial(_save, index, latents, optimizer, descent),
                loss=partial(float, value),
                score=None if score_of is None else score,
            )

    return steps()


def straight_through(value: Tensor, gradient: Tensor) -> Tensor:
    """The first one's value, with a gradient that goes to the second (Bengio et al., arXiv:1308.3432)."""
    replaced: Tensor = _StraightThrough.apply(value, gradient)
    return replaced


def clamp_to_range(images: Tensor) -> Tensor:
    """Clamp to [0, 1]. Outside of it a gradient passes only if descent along it moves the value back in."""
    clamped: Tensor = _ClampToRange.apply(images)
    return clamped


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradient: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


class _ClampToRange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.save_for_backward(images)
        return images.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        images: Tensor = ctx.saved_tensors[0]
        return grad * (grad * (images - images.clamp(0, 1)) >= 0)


def _save(index: int, latents: Tensor, optimizer: torch.optim.Adam, descent: Descent) -> bytes:
    moments = optimizer.state[latents]
    arrays = {name: moments[name].cpu().numpy() for name in ("exp_avg", "exp_avg_sq")}
    arrays |= {"latents": latents.detach().cpu().numpy(), "rng": descent.rng.get_state().numpy()}
    return snapshots.pack(arrays, request=descent.request, seed=descent.seed, step=index)


def _restore(checkpoint: bytes, latents: Tensor, optimizer: torch.optim.Adam, descent: Descent) -> int:
    done, arrays = snapshots.unpack(checkpoint, request=descent.request, seed=descent.seed)
    like = latents.detach().cpu().numpy()
    tensors = {
        name: torch.from_numpy(snapshots.take(arrays, name, like))
        for name in ("latents", "exp_avg", "exp_avg_sq")
    }
    rng = torch.from_numpy(snapshots.take(arrays, "rng", descent.rng.get_state().numpy()))
    with torch.no_grad():
        latents.copy_(tensors.pop("latents"))
    optimizer.state[latents] = {"step": torch.tensor(float(done))} | {
        name: tensor.to(latents.device) for name, tensor in tensors.items()
    }
    descent.rng.set_state(rng)
    return done
