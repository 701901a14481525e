"""Drawings denoised step by step: steps, previews, checkpoints and scores of an unCLIP."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from models.networks.shared_networks import Networks
from models.networks.unclip.unclip_model import Plan, State, Told, Unclip
from models.optimize.clip_loss import Guide, judge_of, onlooker, scores
from models.requests import checkpoint as snapshots
from models.requests.generator import GenerationError, Step
from models.requests.request import GenerationRequest

_UNDRAWN = 0.9
"""Gray of a preview where there is no picture yet."""


class Denoised:
    """A picture of one request and seed.

    Raises:
        GenerationError: as `ImageGenerator.generate`.
    """

    def __init__(
        self,
        unclip: Unclip,
        told: Told,
        plan: Plan,
        request: GenerationRequest,
        seed: int,
        networks: Networks,
        pictures: Mapping[str, Image.Image],
    ) -> None:
        self._unclip, self._told, self._plan = unclip, told, plan
        self._request, self._seed, self._networks = request, seed, networks
        seeing = [onlooker(clip, request, networks, pictures) for clip in networks.guides()]
        self._guides = [guide for guide in seeing if guide is not None]  # they only look: none is fine
        self._judge = judge_of(request, networks, pictures)

    def steps(self, checkpoint: bytes | None = None) -> Iterator[Step]:
        """A step for each of denoising.

        Raises:
            CheckpointUnusable: at once, before the first step.
        """
        restored, done = (None, 0) if checkpoint is None else self._restored(checkpoint)
        states = self._unclip.steps(self._told, self._plan, self._seed, restored)

        def steps() -> Iterator[Step]:
            company, index = self._networks.company, done
            with company.member():
                while True:
                    with company.step():
                        state = next(states, None)
                    if state is None:
                        return
                    index += 1
                    yield self._step(state, index)

        return steps()

    def _step(self, state: State, index: int) -> Step:
        is_last = index == self._request.steps
        return Step(
            index=index,
            total=self._request.steps,
            render=partial(self._pixels, state),
            checkpoint=partial(self._save, state, index),
            score=partial(self._score, state, self._guides) if is_last and self._guides else None,
            held_out_score=partial(self._score, state, [self._judge]) if is_last and self._judge else None,
        )

    def _pixels(self, state: State) -> NDArray[np.uint8]:
        image = self._image(state)[0]
        return image.permute(1, 2, 0).mul(255).round().to("cpu", torch.uint8).numpy()

    def _score(self, state: State, guides: list[Guide]) -> float:
        with torch.no_grad():
            return float(scores(self._image(state), guides, 1))

    def _image(self, state: State) -> Tensor:
        """What there is of the picture, in its whole size: (1, 3, H, W) in [0, 1]"""
        size = (self._request.height, self._request.width)
        if state.picture is None:
            return torch.full((1, 3, *size), _UNDRAWN)
        image = state.picture.float()
        if not image.isfinite().all():
            raise GenerationError("the drawing failed: its numbers are not finite")
        if image.shape[2:] != size:
            image = F.interpolate(image, size=size, mode="bicubic", antialias=True)
        return (image * 0.5 + 0.5).clamp(0, 1)

    def _save(self, state: State, index: int) -> bytes:
        arrays = {
            "stage": np.array([state.stage, state.done]),
            "latents": state.latents.float().cpu().numpy(),
            "given": state.given.float().cpu().numpy(),
            "random": state.random.numpy(),
        }
        return snapshots.pack(arrays, request=self._request, seed=self._seed, step=index)

    def _restored(self, checkpoint: bytes) -> tuple[State, int]:
        index, arrays = snapshots.unpack(checkpoint, request=self._request, seed=self._seed)
        stage, done = (int(value) for value in snapshots.take(arrays, "stage", np.zeros(2, np.int64)))
        latents, given, random = (self._tensor(arrays, name) for name in ("latents", "given", "random"))
        return State(stage, done, latents, given, random), index

    def _tensor(self, arrays: snapshots.Arrays, name: str) -> Tensor:
        if name not in arrays:
            raise snapshots.CheckpointUnusable(f"the checkpoint has no {name!r}")
        return torch.from_numpy(np.array(arrays[name]))
