"""Textures as photos have them, without a photo: noise of nature's spectrum on shapes that hide one another.

Power spectra of natural images fall with the frequency squared (Field 1987, doi:10.1364/JOSAA.4.002379);
shapes before shapes are the dead leaves of Lee, Mumford and Huang 2001, doi:10.1023/A:1011109015675. Networks
learn of such pictures what they would learn of photos (Baradad et al. 2021, arXiv:2106.05963).
"""

import torch
from torch import Tensor

_LEAVES = 24  # at most


def worn(images: Tensor, grounds: Tensor, rng: torch.Generator) -> Tensor:
    """Textures in place of pictures, or within their outlines: (N, 3, S, S) in [0, 1]

    Args:
        images: premultiplied, (N, 4, S, S).
        grounds: what is behind the outlines, (N, 3, 1, 1).
    """
    count, size = len(images), images.shape[-1]
    leaves = torch.stack([_leaves(size, rng) for _ in range(count)])
    alpha = images[:, 3:]
    tint = torch.rand(count, 1, 1, 1, generator=rng)
    lit = (images[:, :3] + 1 - alpha) * (0.5 + leaves)  # the picture, as if the texture were light on it
    within = alpha * (tint * leaves + (1 - tint) * lit).clamp(0, 1) + (1 - alpha) * grounds
    outlined = torch.rand(count, 1, 1, 1, generator=rng) < 0.6
    return torch.where(outlined, within, leaves)


def noise(count: int, size: int, slopes: Tensor, rng: torch.Generator) -> Tensor:
    """Noise whose amplitudes fall with the frequency to the power of `slopes` (count,): (count, size, size)

    Of variance 1.
    """
    frequencies = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])
    frequencies[0, 0] = 1
    parts = torch.randn(2, count, size, size // 2 + 1, generator=rng)
    spectrum = torch.complex(*parts) / frequencies ** slopes[:, None, None]
    waves = torch.fft.irfft2(spectrum, s=(size, size))
    made: Tensor = waves / waves.flatten(1).std(1)[:, None, None]
    return made


def _leaves(size: int, rng: torch.Generator) -> Tensor:
    """(3, size, size) in [0, 1]"""
    count = 1 + int(torch.randint(_LEAVES, (), generator=rng))  # the first is behind all
    rough = noise(count, size, 0.7 + 0.9 * torch.rand(count, generator=rng), rng)[:, None]
    contrast = (0.02 + 0.22 * torch.rand(count, generator=rng) ** 2)[:, None, None, None]
    gray = 0.05 + 0.9 * torch.rand(count, 1, generator=rng)
    colors = (gray + 0.15 * torch.randn(count, 3, generator=rng))[..., None, None]
    textures = colors + contrast * rough  # (count, 3, size, size)
    masks, shades = _outlines(count - 1, size, rng)
    made = textures[0] + 0.05 * torch.rand((), generator=rng) * noise(3, size, torch.full((3,), 1.4), rng)
    for texture, mask, shade in zip(textures[1:], masks, shades, strict=True):
        made = made * (1 - mask) + mask * texture * shade
    return made.clamp(0, 1)


def _outlines(count: int, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Masks of wavy ovals, and how the light falls on each: (count, size, size) twice"""

    def some(low: float, high: float, power: float = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=rng) ** power

    places = (torch.arange(size) + 0.5) / size
    right, down = places[None, None] - some(0, 1), places[None, :, None] - some(0, 1)
    angle, radius = some(0, 6.28), some(0.05, 0.35, 2)
    along = right * angle.cos() + down * angle.sin()
    across = (down * angle.cos() - right * angle.sin()) / some(0.3, 1)
    wavy = radius * (1 + some(0, 0.2) * (3 * torch.atan2(across, along)).sin())
    masks = ((wavy - torch.hypot(along, across)) * size / 1.5 + 0.5).clamp(0, 1)
    return masks, 1 + some(0, 0.4) * (down - right) / radius * masks
