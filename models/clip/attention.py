"""Self-attention as a CPU and a GPU like it, in place of torch's module, with the same weights and sums."""

from typing import cast

from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Attention of a sequence to itself, called as open_clip's blocks call `nn.MultiheadAttention`.

    That module transposes its input, so that one product for all sequences becomes one for each, before which
    torch copies the weights: in bf16 on a CPU that is a third to four fifths of a text tower's time.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        width = attention.embed_dim
        self.heads = attention.num_heads
        # made without weights: drawing them would disturb torch's generator
        self.projection = nn.Linear(width, 3 * width, device="meta")
        self.projection.weight, self.projection.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out = nn.Linear(width, width, device="meta")  # of a class that int8 knows
        self.out.weight, self.out.bias = attention.out_proj.weight, attention.out_proj.bias

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool, attn_mask: Tensor | None
    ) -> tuple[Tensor, None]:
        """Sequences (N, L, width), three times the same -> (N, L, width), and no weights."""
        projected = self.projection(query).unflatten(
            -1, (3, self.heads, -1)
        )  # (N, L, 3, heads, width / heads)
        queries, keys, values = projected.permute(2, 0, 3, 1, 4)
        mask = None if attn_mask is None else attn_mask.to(queries.dtype)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2)), None


def replace_self_attention(model: nn.Module) -> int:
    """Give open_clip's blocks that attend to themselves a `SelfAttention`, in place; how many there were."""
    replaced = 0
    for block in model.modules():
        if isinstance(block, ResidualAttentionBlock) and not hasattr(block, "ln_1_kv"):
            attention = cast(nn.MultiheadAttention, block.attn)
            if attention.batch_first and attention.in_proj_bias is not None:
                block.attn = SelfAttention(attention)
                replaced += 1
    return replaced
