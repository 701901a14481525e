"""Losses that ask nothing of CLIP: they keep a drawing smooth, its paper clean, its latents near codes."""

import torch.nn.functional as F
from torch import Tensor


def smoothness(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbors, across plus down: (N, C, H, W) -> scalar

    Total variation, of Rudin, Osher and Fatemi 1992.
    """
    across = (images[..., 1:] - images[..., :-1]).abs().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    return across + down


def mean_square(difference: Tensor) -> Tensor:
    """Mean of squares: any shape -> scalar"""
    return difference.pow(2).mean()


def white_mask(images: Tensor, margin: int = 7) -> Tensor:
    """Where a picture is white, `margin` pixels off from ink: (N, 3, H, W) -> (N, 1, H, W) in [0, 1]"""
    ink = (1 - images.amin(1, keepdim=True)).mul(4).clamp(0, 1)
    return 1 - F.max_pool2d(ink, 2 * margin + 1, stride=1, padding=margin)


def held_white(images: Tensor, mask: Tensor) -> Tensor:
    """Mean squared distance from white, as far as a mask says: (N, 3, H, W), (N, 1, H, W) -> scalar"""
    return ((1 - images).pow(2) * mask).mean()
