"""The prior: from a text's CLIP embedding straight to the codes of a picture, where a drawing starts.

A feed-forward network in the manner of https://github.com/mehdidc/feed_forward_vqgan_clip: it gives
silhouette and colors in one pass, and the loop draws the rest.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ATTRIBUTES = {"inp": "enter", "cond": "condition", "pos": "position", "b": "blocks", "out": "leave"}
"""The checkpoint's names of the parts, and ours."""


class Prior(nn.Module):
    """A frozen prior of a square grid of codes.

    Args:
        dimension: of the text embeddings.
        codes: that it knows, the first of the codebook.
        side: of the grid.
    """

    def __init__(self, dimension: int, codes: int, side: int, channels: int = 192) -> None:
        super().__init__()
        self.codes = codes
        self.enter = nn.Linear(dimension, channels * 9)
        self.condition = nn.Linear(dimension, channels)
        self.position = nn.Parameter(torch.zeros(1, channels, side, side))
        self.blocks = nn.ModuleList(_block(channels) for _ in range(6))
        self.leave = nn.Sequential(nn.GroupNorm(4, channels), nn.SiLU(), nn.Conv2d(channels, codes, 1))
        self.eval().requires_grad_(False)

    @classmethod
    def read(cls, weights: Mapping[str, Tensor]) -> "Prior":
        """A prior of a checkpoint's tensors; its sizes are those of the tensors."""
        tensors = {}
        for key, value in weights.items():
            part, _, rest = key.partition(".")
            tensors[".".join([_ATTRIBUTES[part], rest] if rest else [_ATTRIBUTES[part]])] = value.float()
        channels, dimension = tensors["condition.weight"].shape
        prior = cls(dimension, len(tensors["leave.2.bias"]), tensors["position"].shape[-1], channels)
        prior.load_state_dict(tensors)
        return prior

    def write(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint, as `read` takes them."""
        names = {ours: theirs for theirs, ours in _ATTRIBUTES.items()}
        tensors = {}
        for key, value in self.state_dict().items():
            part, dot, rest = key.partition(".")
            tensors[names[part] + dot + rest] = value
        return tensors

    def logits(self, texts: Tensor) -> Tensor:
        """Unit embeddings (P, D) -> logits of the codes (P, codes, side, side)"""
        scaled = texts.float() * texts.shape[-1] ** 0.5
        grid = self.enter(scaled).reshape(len(texts), -1, 3, 3)
        condition = self.condition(scaled)[:, :, None, None]
        grid = F.interpolate(grid + self.blocks[0](grid), scale_factor=2)
        grid = grid + self.blocks[1](grid + condition)
        grid = F.interpolate(grid, size=tuple(self.position.shape[2:])) + self.position
        for block in self.blocks[2:]:
            grid = grid + block(grid + condition)
        logits: Tensor = self.leave(grid)
        return logits

    def start(
        self,
        texts: Tensor,
        weights: Tensor,
        codebook: Tensor,
        grid: tuple[int, int],
        *,
        temperature: float = 1.0,
    ) -> Tensor:
        """Latents to start a drawing from: the codes of each place, averaged by their probability.

        Args:
            texts: unit embeddings (P, D).
            weights: (P,) how much each text counts, all above zero.
            codebook: (codes or more, C)
            grid: rows and columns of the latents; other ones than the prior's are interpolated.
            temperature: the higher, the softer.

        Returns:
            (1, C, rows, columns)
        """
        shares = (weights / weights.sum())[:, None, None, None]
        logits = (self.logits(texts).log_softmax(1) * shares).sum(0, keepdim=True)
        odds = logits.div(temperature).softmax(1)
        latents = torch.einsum("nkhw,kc->nchw", odds, codebook[: odds.shape[1]])
        if latents.shape[2:] != grid:
            latents = F.interpolate(latents, size=grid, mode="bilinear")
        return latents


def painted(images: Tensor, color: Tensor) -> Tensor:
    """What is not white in a picture, in one color on white: (N, 3, H, W) in [0, 1], (3,) -> (N, 3, H, W)

    The prior knows shapes better than colors.
    """
    ink = 1 - images.amin(1, keepdim=True)
    ink = (ink * 1.3 / ink.amax().clamp(min=1e-3)).clamp(0, 1)
    return 1 - ink * (1 - color[:, None, None])


def _block(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.GroupNorm(4, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)]
    return nn.Sequential(*layers)
