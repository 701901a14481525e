"""A transformer that goes on with a sequence of codes, one code at a time, and remembers what it has read.

The GPT of taming-transformers (after https://github.com/karpathy/minGPT) and of our own `dalle_model`.
"""

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TAMING = {
    r"tok_emb\.": "tokens.",
    r"pos_emb": "positions",
    r"ln_f\.": "norm.",
    r"(blocks\.\d+)\.ln(\d)\.": r"\1.norm\2.",
    r"(blocks\.\d+)\.attn\.proj\.": r"\1.project.",
    r"(blocks\.\d+)\.mlp\.0\.": r"\1.expand.",
    r"(blocks\.\d+)\.mlp\.2\.": r"\1.shrink.",
}
"""taming-transformers' names of the parts, and ours."""


class Cache:
    """Keys and values of what was read: per layer (2, N, heads, length, width / heads)

    Args:
        positions: of the network, (1, length, width); of its device and its precision.
        rows: N, of sequences.
    """

    def __init__(self, positions: Tensor, *, depth: int, heads: int, rows: int) -> None:
        _, length, width = positions.shape
        self._kept = positions.new_empty((depth, 2, rows, heads, length, width // heads))
        self.filled = 0  # tokens

    def put(self, layer: int, new: Tensor) -> Tensor:
        """Add (2, N, heads, T, width / heads) after what is filled; returns that and the new."""
        end = self.filled + new.shape[3]
        self._kept[layer][:, :, :, self.filled : end] = new
        return self._kept[layer][:, :, :, :end]


class Transformer(nn.Module):
    """A decoder-only transformer: each token sees those before it, and itself.

    Args:
        vocabulary: tokens there are.
        length: of the longest sequence, in tokens.
    """

    def __init__(self, *, vocabulary: int, length: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.length, self.width, self.heads = length, width, heads
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(1, length, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    @classmethod
    def read(cls, weights: Mapping[str, Tensor], heads: int) -> "Transformer":
        """A frozen one of a checkpoint's tensors, ours or taming's; its sizes are those of the tensors."""
        tensors = {_ours(name): value.float() for name, value in _joined(weights).items()}
        network = cls(
            vocabulary=len(tensors["tokens.weight"]),
            length=tensors["positions"].shape[1],
            width=tensors["positions"].shape[2],
            depth=1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")),
            heads=heads,
        )
        network.load_state_dict(tensors)
        return network.eval().requires_grad_(False)

    def cache(self, rows: int) -> Cache:
        """An empty one for so many sequences."""
        return Cache(self.positions, depth=len(self.blocks), heads=self.heads, rows=rows)

    def forward(self, inputs: Tensor, cache: Cache | None = None) -> Tensor:
        """Embedded tokens to the logits of the one after each: (N, T, width) -> (N, T, vocabulary)

        Args:
            cache: of the same N sequences; the inputs come after what it holds, and it keeps them, too.
        """
        start = 0 if cache is None else cache.filled
        x = inputs.to(self.positions) + self.positions[:, start : start + inputs.shape[1]]
        for layer, block in enumerate(self.blocks):
            x = block(x, cache, layer)
        if cache is not None:
            cache.filled += inputs.shape[1]
        logits: Tensor = self.head(self.norm(x))
        return logits


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)  # queries, keys, values
        self.project = nn.Linear(width, width)
        self.expand, self.shrink = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, cache: Cache | None, layer: int) -> Tensor:
        rows, new, width = x.shape
        parts = self.attend(self.norm1(x)).view(rows, new, 3, self._heads, width // self._heads)
        parts = parts.permute(2, 0, 3, 1, 4)  # (3, N, heads, T, width / heads)
        queries, seen = parts[0], parts[1:]
        if cache is not None:
            seen = cache.put(layer, seen)
        x = x + self.project(attend(queries, seen))
        grown: Tensor = x + self.shrink(F.gelu(self.expand(self.norm2(x))))
        return grown


def attend(queries: Tensor, seen: Tensor) -> Tensor:
    """What the last T of L tokens find in those before them and in themselves.

    Args:
        queries: (N, heads, T, width / heads)
        seen: keys and values, (2, N, heads, L, width / heads)

    Returns:
        (N, T, width)
    """
    new, length = queries.shape[2], seen.shape[3]
    mask = None
    if 1 < new < length:
        mask = torch.ones(new, length, dtype=torch.bool, device=queries.device).tril(length - new)
    found = F.scaled_dot_product_attention(
        queries, seen[0], seen[1], attn_mask=mask, is_causal=new == length > 1
    )
    return found.transpose(1, 2).flatten(2)


def _joined(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """taming's queries, keys and values as one matrix; its masks are left out."""
    found = {name: value for name, value in weights.items() if not name.endswith(".attn.mask")}
    for name in [name for name in found if ".attn.query." in name]:
        parts = [found.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        found[name.replace("attn.query", "attend")] = torch.cat(parts)
    return found


def _ours(name: str) -> str:
    for theirs, ours in _TAMING.items():
        name = re.sub(rf"^{theirs}", ours, name)
    return name
