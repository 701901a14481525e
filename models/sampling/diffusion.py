"""Images denoised step by step by an unCLIP: steps, previews, checkpoints and scores."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from models.networks.shared_networks import Networks
from models.networks.unclip.unclip_model import Plan, State, Unclip, UnclipConditioning
from models.optimize.clip_loss import Guide, held_out_of, scorer_of, scores
from models.optimize.loop import to_pixels
from models.requests import checkpoint
from models.requests.generator import Drawing, GenerationError, Step

_UNDRAWN = 0.9
"""Gray of a preview while there is no image yet."""


def denoise(
    unclip: Unclip, conditioning: UnclipConditioning, plan: Plan, drawing: Drawing, networks: Networks
) -> Iterator[Step]:
    """A step for each one of the plan.

    Raises:
        CheckpointUnusable: at once, before the first step.
        GenerationError: as `models.requests.generator.Generate`.
    """
    restored, done = _restored(drawing)
    states = unclip.steps(conditioning, plan, drawing.seed, restored)
    scorers = [guide for clip in networks.guides() if (guide := scorer_of(clip, drawing, networks))]
    held_out = held_out_of(drawing, networks)
    total = drawing.request.steps

    def steps() -> Iterator[Step]:
        scheduler, index = networks.scheduler, done
        with scheduler.session():
            while True:
                with scheduler.step():
                    state = next(states, None)
                if state is None:
                    return
                index += 1
                is_last = index == total
                yield Step(
                    index=index,
                    total=total,
                    render=partial(_pixels, state, drawing),
                    checkpoint=partial(_save, state, drawing, index),
                    score=partial(_score, state, drawing, scorers) if is_last and scorers else None,
                    held_out_score=(
                        partial(_score, state, drawing, [held_out]) if is_last and held_out else None
                    ),
                )

    return steps()


def _pixels(state: State, drawing: Drawing) -> NDArray[np.uint8]:
    return to_pixels(_image(state, drawing)[0])


@torch.no_grad()
def _score(state: State, drawing: Drawing, guides: list[Guide]) -> float:
    return float(scores(_image(state, drawing), guides, 1))


def _image(state: State, drawing: Drawing) -> Tensor:
    """The image so far, in its full size: (1, 3, H, W) in [0, 1]"""
    if state.picture is None:
        return torch.full((1, 3, *drawing.size), _UNDRAWN)
    image = state.picture.float()
    if not image.isfinite().all():
        raise GenerationError("the drawing failed: its numbers are not finite")
    if image.shape[2:] != drawing.size:
        image = F.interpolate(image, size=drawing.size, mode="bicubic", antialias=True)
    return (image * 0.5 + 0.5).clamp(0, 1)


def _save(state: State, drawing: Drawing, index: int) -> bytes:
    arrays = {
        "stage": np.array([state.stage, state.done]),
        "latents": state.latents.float().cpu().numpy(),
        "given": state.given.float().cpu().numpy(),
        "random": state.random.numpy(),
    }
    return checkpoint.pack(arrays, request=drawing.request, seed=drawing.seed, step=index)


def _restored(drawing: Drawing) -> tuple[State | None, int]:
    if drawing.resume_from is None:
        return None, 0
    index, arrays = checkpoint.unpack(drawing.resume_from, request=drawing.request, seed=drawing.seed)
    stage, done = (int(value) for value in checkpoint.take(arrays, "stage", np.zeros(2, np.int64)))
    for name in ("latents", "given", "random"):
        if name not in arrays:
            raise checkpoint.CheckpointUnusable(f"the checkpoint has no {name!r}")
    latents, given, random = (
        torch.from_numpy(np.array(arrays[name])) for name in ("latents", "given", "random")
    )
    return State(stage, done, latents, given, random), index
