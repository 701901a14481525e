"""Images sampled code by code, several candidates at once; CLIP selects the best of them."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.clip import TextTooLong
from models.networks.autoregressive import Choice, Conditioning, Conditions, Sampler, guided
from models.networks.shared_networks import Networks
from models.networks.vqgan import read_card
from models.networks.vqgan.vqgan_model import EncoderMissing, Vqgan
from models.optimize.clip_loss import guides_of, held_out_of, scores
from models.optimize.loop import to_pixels
from models.optimize.prompt_targets import to_tensor
from models.requests import checkpoint
from models.requests.generator import Drawing, GenerationError, Step
from models.requests.options import CompletingOptions, SamplingOptions
from models.requests.request import GenerationRequest
from models.sampling.profile import AT_ONCE

_UNDRAWN = 0.9
"""Gray of the places in a preview that have no code yet."""


class Candidates:
    """The candidates of one drawing.

    Args:
        vqgan: its codes are sampled.

    Raises:
        GenerationError: as `models.requests.generator.Generate`.
    """

    def __init__(
        self,
        conditioning: Conditioning,
        vqgan: Vqgan,
        drawing: Drawing,
        options: SamplingOptions,
        networks: Networks,
    ) -> None:
        self._drawing, self._networks, self._vqgan = drawing, networks, vqgan
        self._grid = (drawing.size[0] // vqgan.factor, drawing.size[1] // vqgan.factor)
        self._length = self._grid[0] * self._grid[1]
        self._guides = guides_of(drawing, options, networks)
        self._held_out = held_out_of(drawing, networks)
        with torch.no_grad():
            self._sampler = Sampler(
                conditioning,
                number=options.candidates,
                length=self._length,
                kept=self._kept(options, len(conditioning.transformer.tokens.weight)),
                choice=Choice(options.temperature, options.top_k, options.top_p),
                seed=drawing.seed,
            )

    def steps(self) -> Iterator[Step]:
        """A step for each code, of all candidates at once; the last step's image is the best candidate's.

        Raises:
            CheckpointUnusable: at once, before the first step.
        """
        restored = self._restored()

        def steps() -> Iterator[Step]:
            scheduler, sampler = self._networks.scheduler, self._sampler
            with scheduler.session():
                for index in range(sampler.codes.shape[1] + 1, self._length + 1):
                    with scheduler.step(), torch.no_grad():
                        done = index <= restored.shape[1]
                        sampler.next(restored[:, index - 1] if done else None)
                        best = self._best() if index == self._length else None
                    if not done:
                        yield self._step(index, best)

        return steps()

    def finish(self) -> Tensor:
        """Sample all codes at once: those of the best candidate, (1, h, w)"""
        with torch.no_grad():
            while self._sampler.codes.shape[1] < self._length:
                self._sampler.next()
            return self._best()[0]

    def _kept(self, options: SamplingOptions, known: int) -> Tensor:
        """The codes of the kept rows of `init_image`, row by row: (K,), each below `known`"""
        if not isinstance(options, CompletingOptions) or options.init_image is None:
            return torch.empty(0, dtype=torch.long)
        image = to_tensor(self._drawing.image(options.init_image), self._drawing.size, self._networks.device)
        try:
            codes = self._vqgan.codes(image, known)[0]
        except EncoderMissing as error:
            raise GenerationError(
                "this VQGAN's weights have no encoder, so it cannot continue an init_image"
            ) from error
        return codes[: round(options.keep * self._grid[0])].flatten()

    def _best(self) -> tuple[Tensor, float]:
        """The codes of the best candidate, once all are complete: (1, h, w), and its score"""
        grids = self._sampler.codes.view(-1, *self._grid)
        found = torch.cat(
            [scores(self._decode(piece), self._guides, 1) for piece in torch.split(grids, AT_ONCE)]
        )
        place = int(found.argmax())
        return grids[place : place + 1], float(found[place])

    def _step(self, index: int, best: tuple[Tensor, float] | None) -> Step:
        codes = self._sampler.codes
        grid, score = best or (None, None)
        return Step(
            index=index,
            total=self._length,
            render=partial(self._pixels, codes[:1], grid),
            checkpoint=partial(self._save, codes),
            score=None if score is None else partial(float, score),
            held_out_score=None if grid is None else partial(self._held_out_score, grid),
        )

    @torch.no_grad()
    def _pixels(self, codes: Tensor, best: Tensor | None) -> NDArray[np.uint8]:
        """The best candidate, or the codes (1, t) of the first candidate so far."""
        if best is not None:
            return to_pixels(self._decode(best)[0])
        rest = codes[:, -1:].expand(1, self._length - codes.shape[1])
        image = self._decode(torch.cat([codes, rest], 1).view(1, *self._grid))[0]
        drawn = torch.arange(self._length, device=image.device).view(self._grid) < codes.shape[1]
        factor = self._vqgan.factor
        drawn = drawn.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
        return to_pixels(torch.where(drawn, image, _UNDRAWN))

    @torch.no_grad()
    def _held_out_score(self, best: Tensor) -> float | None:
        return None if self._held_out is None else float(scores(self._decode(best), [self._held_out], 1))

    def _decode(self, grids: Tensor) -> Tensor:
        return self._vqgan.decode(self._vqgan.lookup(grids)).clamp(0, 1)

    def _save(self, codes: Tensor) -> bytes:
        arrays = {"codes": codes.to("cpu", torch.int32).numpy()}
        request, seed = self._drawing.request, self._drawing.seed
        return checkpoint.pack(arrays, request=request, seed=seed, step=codes.shape[1])

    def _restored(self) -> Tensor:
        """The codes of the checkpoint: (N, t)"""
        rows, state = len(self._sampler.codes), self._drawing.resume_from
        if state is None:
            return torch.empty(rows, 0, dtype=torch.long)
        step, arrays = checkpoint.unpack(state, request=self._drawing.request, seed=self._drawing.seed)
        codes = checkpoint.take_tensor(arrays, "codes", torch.zeros(rows, step, dtype=torch.int32))
        return codes.long().to(self._networks.device)


def condition_on_text(request: GenerationRequest, guidance: float, networks: Networks) -> Conditioning:
    """The conditioning of the VQGAN's dalle on the texts of a request.

    Args:
        request: one of its texts has a weight above 0.
        guidance: as of `models.networks.autoregressive.guided`.

    Raises:
        GenerationError: a text is too long, or the VQGAN has no dalle or no prior.
    """
    dalle, prior, card = (
        networks.dalle(),
        networks.prior(),
        read_card(networks.names.vqgan, networks.names.weights).dalle,
    )
    if dalle is None or prior is None or card is None:
        raise GenerationError("this VQGAN has no dalle, or no prior for it")
    clip = networks.clip(card.clip)
    prompts = [prompt for prompt in request.prompts if prompt.text is not None and prompt.weight_at(0)]
    weights = torch.tensor([prompt.weight_at(0) for prompt in prompts], device=networks.device)
    try:
        with torch.no_grad():
            embeddings = clip.encode_text([prompt.text or "" for prompt in prompts])
            words = clip.word_vectors([prompt.text or "" for prompt in prompts])
            conditions = dalle.conditions(words, embeddings, prior.logits(embeddings))
    except TextTooLong as error:
        raise GenerationError(f"the prompt is too long for {clip.name}: {error}") from error
    nothing = unconditioned(networks).conditions
    mix = guided(weights, guidance)
    counted = mix.nonzero()[:, 0]  # a guidance of 1 leaves out the row without a text
    both = (
        torch.cat([getattr(nothing, part), getattr(conditions, part)])
        for part in ("before", "beside", "bias")
    )
    return Conditioning(dalle.transformer, Conditions(*(part[counted] for part in both)), mix[counted])


def unconditioned(networks: Networks) -> Conditioning:
    """No conditioning: any image that the transformer knows.

    Raises:
        GenerationError: the VQGAN has no dalle.
    """
    dalle = networks.dalle()
    if dalle is None:
        raise GenerationError("this VQGAN has no dalle")
    device, codes = networks.device, len(dalle.transformer.tokens.weight)
    with torch.no_grad():
        known = dalle.conditions(
            [torch.empty(0, dalle.word.in_features, device=device)],
            torch.zeros(1, dalle.whole.in_features, device=device),
            torch.zeros(1, codes, dalle.side, dalle.side, device=device),
        )
    return Conditioning(dalle.transformer, known, torch.ones(1, device=device))
