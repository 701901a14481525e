"""Sampling: pictures chosen code by code out of what a transformer expects, several at once."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from models.networks.transformer import Cache, Transformer


class Expecting(Protocol):
    """What expects codes: `models.networks.transformer.Transformer` is one."""

    tokens: nn.Embedding  # codes and whatever else its sequences hold

    def cache(self, rows: int) -> Cache:
        """An empty one for so many sequences."""

    def __call__(self, inputs: Tensor, cache: Cache, /) -> Tensor:
        """Embedded tokens to the logits of the one after each: (N, T, width) -> (N, T, codes)

        Args:
            cache: of the same N sequences; the inputs come after what it holds, and it keeps them, too.
        """


@dataclass(frozen=True)
class Conditions:
    """What P texts or classes give a transformer beside the codes.

    Attributes:
        before: stands before the picture's codes, (P, T, width).
        beside: is added to what is read before each of its S codes, (P, S, width); none: nothing is.
        bias: is added to the logits of each, (P, S, codes); none: nothing is.
    """

    before: Tensor
    beside: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class Conditioning:
    """A transformer, and what it is conditioned on.

    Attributes:
        mix: (P,) how much each condition's logits count; they add up to 1, and some may be negative.
    """

    transformer: Expecting
    conditions: Conditions
    mix: Tensor


@dataclass(frozen=True)
class Choice:
    """How codes are chosen; see `models.requests.options.SamplingOptions`."""

    temperature: float
    top_k: int
    top_p: float


class Sampler:
    """Pictures that grow together, a code at a time.

    All of them that is left to chance is drawn at once and on the CPU: a picture is the same on every device,
    up to rounding, and however many others grow beside it.

    Args:
        number: N, of pictures.
        length: of each in codes.
        kept: (K,) codes that all of them begin with, less than `length`.

    Attributes:
        codes: (N, t) of each picture, those that there are.
    """

    def __init__(
        self,
        conditioning: Conditioning,
        *,
        number: int,
        length: int,
        kept: Tensor,
        choice: Choice,
        seed: int,
    ) -> None:
        transformer, known, mix = conditioning.transformer, conditioning.conditions, conditioning.mix
        self._transformer, self._known, self._mix, self._choice = transformer, known, mix, choice
        device = mix.device
        rng = torch.Generator().manual_seed(seed)
        self._chances = torch.rand(number, length, generator=rng).to(device)
        self._cache = transformer.cache(len(mix) * number)
        self.codes = kept.to(device).expand(number, -1)
        first = known.before.repeat_interleave(
            number, 0
        )  # (P * N, T, width): by conditions, then by pictures
        first = torch.cat([first[:, :-1], self._placed(first[:, -1:], 0)], 1)
        embedded = transformer.tokens(self.codes).repeat(len(mix), 1, 1)
        rest = [self._placed(embedded[:, place : place + 1], place + 1) for place in range(len(kept))]
        self._unread = torch.cat([first, *rest], 1)

    def next(self, forced: Tensor | None = None) -> None:
        """Choose the next code of each picture.

        Args:
            forced: (N,) what was chosen before an interruption: what comes after is the same, bit for bit.
        """
        place = self.codes.shape[1]
        logits = self._transformer(self._unread, self._cache)[:, -1].float()
        logits = logits.view(len(self._mix), -1, logits.shape[1])  # (P, N, codes)
        if self._known.bias is not None:
            logits = logits + self._known.bias[:, place, None]
        mixed = torch.einsum("p,pnk->nk", self._mix, logits)
        chosen = choose(mixed, self._chances[:, place], self._choice) if forced is None else forced
        self.codes = torch.cat([self.codes, chosen[:, None]], 1)
        if self.codes.shape[1] < self._chances.shape[1]:
            embedded = self._transformer.tokens(chosen).repeat(len(self._mix), 1)
            self._unread = self._placed(embedded[:, None], place + 1)

    def _placed(self, embedded: Tensor, place: int) -> Tensor:
        """What is read before the code at a place: (P * N, 1, width) -> the same"""
        if self._known.beside is None:
            return embedded
        beside = self._known.beside[:, place : place + 1]
        return embedded + beside.repeat_interleave(len(embedded) // len(self._mix), 0)


def condition_on_class(transformer: Transformer, label: int) -> Conditioning:
    """What taming-transformers' transformer begins with: the number of a class; 0 where it knows none."""
    device = transformer.positions.device
    token = torch.tensor([[label]], device=device)
    return Conditioning(transformer, Conditions(transformer.tokens(token)), torch.ones(1, device=device))


def guided(weights: Tensor, guidance: float) -> Tensor:
    """How much logits count, those without a text first: (P,) -> (1 + P,)

    They are those without a text, and `guidance` times what each text changes of them, by weight (Ho and
    Salimans 2022, https://arxiv.org/abs/2207.12598; of several texts, Liu et al. 2022, arXiv:2206.01714).

    Args:
        weights: of the texts, one at least above 0.
    """
    mix = guidance * weights / weights.clamp(min=0).sum()
    return torch.cat([1 - mix.sum(0, keepdim=True), mix])


def choose(logits: Tensor, chances: Tensor, choice: Choice) -> Tensor:
    """One code of each row: (N, codes), chances (N,) in [0, 1) -> (N,)

    Only the `top_k` likeliest take part, and of those only so many as together reach the share `top_p`
    (Holtzman et al. 2019, https://arxiv.org/abs/1904.09751); the likeliest always does.
    """
    ordered, codes = (logits / choice.temperature).sort(stable=True, dim=-1, descending=True)
    if choice.top_k:
        ordered, codes = ordered[:, : choice.top_k], codes[:, : choice.top_k]
    shares = ordered.softmax(-1)
    shares = shares.masked_fill(shares.cumsum(-1) - shares >= choice.top_p, 0)
    reached = shares.cumsum(-1)
    ranks = (reached <= chances[:, None] * reached[:, -1:]).sum(-1, keepdim=True)
    chosen: Tensor = codes.gather(-1, ranks.clamp(max=codes.shape[1] - 1))
    return chosen[:, 0]
