"""The way from latents to pictures: taming-transformers' decoder, in fewer operations and less memory.

Its modules hold the weights, and this computes what their `forward`s do. What only training needs is left
out, attention makes no matrix of all pairs of places, and no picture is enlarged to be convolved: a nearest
enlargement and a 3x3 convolution are one transposed 4x4 convolution, of less than half the multiplications.
"""

from functools import partial

import torch
import torch.nn.functional as F
from taming.modules.diffusionmodules.model import AttnBlock, Decoder, ResnetBlock, Upsample
from torch import Tensor
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from models.networks.vqgan.frozen import convolve, norm_swish


def prepare(decoder: Decoder) -> None:
    """Make of a decoder's final weights what `decode` needs beside them."""
    for module in decoder.modules():
        if isinstance(module, Upsample):
            module.register_buffer("doubling", _doubling(module.conv.weight), persistent=False)


def decode(decoder: Decoder, latents: Tensor, *, seamless: bool = False, low_memory: bool = False) -> Tensor:
    """What a prepared decoder makes of latents: (N, C, h, w) -> (N, 3, H, W), about [-1, 1]

    Args:
        seamless: convolve around the edges. Nothing else knows places: attention has no positions, and norms
            see all alike.
        low_memory: keep the inputs of blocks alone, and run each block again in the backward pass (Chen et
            al. 2016, arXiv:1604.06174).
    """
    again = partial(torch_checkpoint, residual, use_reentrant=False, preserve_rng_state=False)
    block = again if low_memory else residual
    images = convolve(latents, decoder.conv_in, wraps=seamless)
    images = block(decoder.mid.block_1, images, seamless)
    images = _attention(decoder.mid.attn_1, images)
    images = block(decoder.mid.block_2, images, seamless)
    for level in reversed(range(decoder.num_resolutions)):
        up = decoder.up[level]
        for place, layer in enumerate(up.block):
            images = block(layer, images, seamless)
            if len(up.attn):
                images = _attention(up.attn[place], images)
        if level:
            images = _doubled(up.upsample, images, seamless)
    return convolve(norm_swish(images, decoder.norm_out), decoder.conv_out, wraps=seamless)


def residual(block: ResnetBlock, images: Tensor, wraps: bool = False) -> Tensor:
    """One of taming's residual blocks: (N, C, H, W) -> (N, C', H, W)"""
    inner = convolve(norm_swish(images, block.norm1), block.conv1, wraps=wraps)
    inner = convolve(norm_swish(inner, block.norm2), block.conv2, wraps=wraps)
    if block.in_channels != block.out_channels:
        images = convolve(images, block.nin_shortcut)
    return images + inner


def _attention(block: AttnBlock, images: Tensor) -> Tensor:
    normalized = block.norm(images)
    # (N, 1, h * w, C): one head
    queries, keys, values = (
        convolve(normalized, layer).permute(0, 2, 3, 1).flatten(1, 2)[:, None]
        for layer in (block.q, block.k, block.v)
    )
    found = F.scaled_dot_product_attention(queries, keys, values)
    found = found.view(images.shape[0], *images.shape[2:], -1).permute(0, 3, 1, 2)
    return images + convolve(found, block.proj_out)


def _doubled(layer: Upsample, images: Tensor, wraps: bool) -> Tensor:
    padding = 1
    if wraps:
        images, padding = F.pad(images, (1, 1, 1, 1), "circular"), 3
    return F.conv_transpose2d(images, layer.doubling, layer.conv.bias, stride=2, padding=padding)


def _doubling(weight: Tensor) -> Tensor:
    """The kernel of a transposed convolution that doubles, then convolves: (O, I, 3, 3) -> (I, O, 4, 4)

    Each pixel of the picture stands for four of the enlarged one, so it has the sum of their four kernels.
    """
    ones = torch.ones(1, 1, 2, 2, dtype=torch.float64, device=weight.device)
    summed = F.conv_transpose2d(weight.double().flatten(0, 1)[:, None], ones)
    kernel = summed.view(*weight.shape[:2], 4, 4).transpose(0, 1).flip(2, 3)
    return kernel.to(weight.dtype).contiguous(memory_format=torch.channels_last)
