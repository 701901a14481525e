"""Drawings sampled code by code: a picture is the best of several candidates, as CLIP finds them.

What the generators that sample have in common; `models.networks.autoregressive` is the loop's step.
"""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.networks.autoregressive import Choice, Sampler, Told
from models.networks.shared_networks import Networks
from models.networks.vqgan.vqgan_model import EncoderMissing, Vqgan
from models.optimize.clip_loss import guides_of, judge_of, scores
from models.optimize.prompt_targets import find_picture, to_tensor
from models.requests import checkpoint as snapshots
from models.requests.generator import GenerationError, Step
from models.requests.options import CompletingOptions, SamplingOptions
from models.requests.request import GenerationRequest
from models.sampling.profile import AT_ONCE

_UNDRAWN = 0.9
"""Gray of the places in a preview that have no code yet."""


class Candidates:
    """Pictures of one request and seed that grow side by side.

    Args:
        vqgan: whose codes are chosen.

    Raises:
        GenerationError: as `ImageGenerator.generate`.
    """

    def __init__(
        self,
        told: Told,
        vqgan: Vqgan,
        request: GenerationRequest,
        options: SamplingOptions,
        seed: int,
        networks: Networks,
        pictures: Mapping[str, Image.Image],
    ) -> None:
        self._request, self._seed, self._networks, self._vqgan = request, seed, networks, vqgan
        self._grid = (request.height // self._vqgan.factor, request.width // self._vqgan.factor)
        self._guides = guides_of(request, options, networks, pictures)
        self._judge = judge_of(request, networks, pictures)
        self._score: float | None = None  # of the best, when it is known
        with torch.no_grad():
            self._sampler = Sampler(
                told,
                number=options.candidates,
                length=self._length,
                kept=self._kept(options, pictures, len(told.transformer.tokens.weight)),
                choice=Choice(options.temperature, options.top_k, options.top_p),
                seed=seed,
            )

    @property
    def _length(self) -> int:
        return self._grid[0] * self._grid[1]

    def steps(self, checkpoint: bytes | None = None) -> Iterator[Step]:
        """A step for each code, of all at once; the last one's picture is the best.

        Raises:
            CheckpointUnusable: at once, before the first step.
        """
        restored = None if checkpoint is None else self._restored(checkpoint)

        def steps() -> Iterator[Step]:
            company = self._networks.company
            with company.member():
                begin = self._sampler.codes.shape[1]
                for index in range(begin + 1, self._length + 1):
                    with company.step(), torch.no_grad():
                        forced = None
                        if restored is not None and index <= restored.shape[1]:
                            forced = restored[:, index - 1]
                        self._sampler.next(forced)
                        best = self._best() if index == self._length else None
                    if forced is None:
                        yield self._step(index, best)

        return steps()

    def finish(self) -> Tensor:
        """Draw all at once: the codes of the best, (1, h, w)"""
        with torch.no_grad():
            while self._sampler.codes.shape[1] < self._length:
                self._sampler.next()
        return self._best()

    def _kept(self, options: SamplingOptions, pictures: Mapping[str, Image.Image], known: int) -> Tensor:
        """The codes of what is kept of `init_image`, row by row: (K,), of the first `known`"""
        if not isinstance(options, CompletingOptions) or options.init_image is None:
            return torch.empty(0, dtype=torch.long)
        size, device = (self._request.height, self._request.width), self._networks.device
        picture = to_tensor(find_picture(pictures, options.init_image), size, device)
        try:
            codes = self._vqgan.codes(picture, known)[0]
        except EncoderMissing as error:
            raise GenerationError(
                "this VQGAN's weights have no encoder, so that no init_image can be gone on from"
            ) from error
        return codes[: round(options.keep * self._grid[0])].flatten()

    def _best(self) -> Tensor:
        """The codes of the best candidate, when all have all of theirs: (1, h, w)"""
        grids = self._sampler.codes.view(-1, *self._grid)
        with torch.no_grad():
            found = torch.cat(
                [scores(self._decode(piece), self._guides, 1) for piece in torch.split(grids, AT_ONCE)]
            )
        place = int(found.argmax())
        self._score = float(found[place])
        return grids[place : place + 1]

    def _step(self, index: int, best: Tensor | None) -> Step:
        codes = self._sampler.codes
        return Step(
            index=index,
            total=self._length,
            render=partial(self._pixels, codes[:1], best),
            checkpoint=partial(self._save, codes),
            score=None if self._score is None else partial(float, self._score),
            held_out_score=None if best is None else partial(self._held_out_score, best),
        )

    def _pixels(self, codes: Tensor, best: Tensor | None) -> NDArray[np.uint8]:
        """The best, or as much as there is of the first candidate."""
        with torch.no_grad():
            image = self._decode(_whole(codes, self._grid) if best is None else best)[0]
            if best is None:
                drawn = torch.arange(self._length, device=image.device).view(self._grid) < codes.shape[1]
                factor = self._vqgan.factor
                drawn = drawn.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
                image = torch.where(drawn, image, _UNDRAWN)
        return image.permute(1, 2, 0).mul(255).round().to("cpu", torch.uint8).numpy()

    def _held_out_score(self, best: Tensor) -> float | None:
        if self._judge is None:
            return None
        with torch.no_grad():
            return float(scores(self._decode(best), [self._judge], 1))

    def _decode(self, grids: Tensor) -> Tensor:
        return self._vqgan.decode(self._vqgan.lookup(grids)).clamp(0, 1)

    def _save(self, codes: Tensor) -> bytes:
        arrays = {"codes": codes.to("cpu", torch.int32).numpy()}
        return snapshots.pack(arrays, request=self._request, seed=self._seed, step=codes.shape[1])

    def _restored(self, checkpoint: bytes) -> Tensor:
        step, arrays = snapshots.unpack(checkpoint, request=self._request, seed=self._seed)
        like = np.zeros((len(self._sampler.codes), step), np.int32)
        codes = torch.from_numpy(snapshots.take(arrays, "codes", like)).long()
        return codes.to(self._networks.device)


def _whole(codes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Codes (1, t) with the last one in all places after them: (1, h, w)"""
    rest = grid[0] * grid[1] - codes.shape[1]
    return torch.cat([codes, codes[:, -1:].expand(1, rest)], 1).view(1, *grid)
