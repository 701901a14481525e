"""Augmentations: how views of a picture are bent, tinted, blurred, blotted and dusted before CLIP sees them.

The formulas are those of kornia's modules (Riba et al. 2020, https://arxiv.org/abs/1910.02190), which the
programs of the field used. Parameters are one per view, K; views are (N, K, C, R, R), K of each of N
pictures, so that all pictures get the same.

A matrix leads from a place of the new view to the place of the old one that it shows, in coordinates from -1
at the first pixel's center to 1 at the last one's, to the right and downwards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Padding = Literal["zeros", "border", "reflection"]

_CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))


@dataclass(frozen=True)
class Chance:
    """Random parameters of views, on the CPU and exact enough to invert matrices of them."""

    count: int
    rng: torch.Generator

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform: (K, *shape)"""
        return low + (high - low) * torch.rand(self.count, *shape, generator=self.rng).double()

    def often(self, share: float) -> Tensor:
        """1 of so many, else 0: (K,)"""
        return (torch.rand(self.count, generator=self.rng) < share).double()

    def grain(self, size: int, like: Tensor) -> Tensor:
        """Normal noise of views (K, 3, R, R), made on another tensor's device: it is too much to copy."""
        seed = int(torch.randint(1 << 62, (), generator=self.rng))
        rng = torch.Generator(like.device).manual_seed(seed)
        return torch.randn(self.count, 3, size, size, generator=rng, device=like.device, dtype=like.dtype)


def affine(turn: Tensor, shift: Tensor, shear: Tensor, mirror: Tensor) -> Tensor:
    """Mirrored, sheared, turned about the center, then shifted: matrices (K, 3, 3).

    Args:
        turn: radians, clockwise (K,).
        shift: to the right and downwards (K, 2); 2 is the view's own side.
        shear: radians, of what was upright (K,).
        mirror: -1 where left becomes right, else 1 (K,).
    """
    cos, sin, tan = turn.cos(), turn.sin(), shear.tan()
    rows = torch.stack(
        [cos * mirror, -cos * tan - sin, shift[:, 0], sin * mirror, cos - sin * tan, shift[:, 1]], 1
    )
    inverse: Tensor = torch.linalg.inv(_homogeneous(rows))
    return inverse


def perspective(drawn_in: Tensor) -> Tensor:
    """Each corner drawn in towards the center: matrices (K, 3, 3).

    Args:
        drawn_in: shares of the way, across and down, of the upper left corner and on clockwise (K, 4, 2).
    """
    old = torch.tensor(_CORNERS).to(drawn_in)
    new = old * (1 - drawn_in)  # (K, 4, 2)
    # old = (h0 x + h1 y + h2, h3 x + h4 y + h5) / (h6 x + h7 y + 1), of each corner
    ones, zeros = torch.ones_like(new[..., :1]), torch.zeros_like(new)
    place = torch.cat([new, ones], 2)  # (K, 4, 3)
    across = torch.cat([place, zeros, zeros[..., :1], -old[:, :1] * new], 2)
    down = torch.cat([zeros, zeros[..., :1], place, -old[:, 1:] * new], 2)
    known = old.T.flatten().expand(len(new), 8)
    solved: Tensor = torch.linalg.solve(torch.cat([across, down], 1), known)
    return torch.cat([solved, torch.ones_like(solved[:, :1])], 1).view(-1, 3, 3)


def scaling(share: Tensor, center: Tensor) -> Tensor:
    """A part of the old view, across and down, and where its center is: (K, 2), (K, 2) -> (K, 3, 3)"""
    zeros = torch.zeros_like(share[:, 0])
    return _homogeneous(torch.stack([share[:, 0], zeros, center[:, 0], zeros, share[:, 1], center[:, 1]], 1))


def warp(views: Tensor, matrices: Tensor, padding: Padding) -> Tensor:
    """The views that matrices (K, 3, 3) lead to: (N, K, C, R, R), or (N, 1, C, R, R) for one to make all of.

    Args:
        padding: what lies outside of the old view.
    """
    number, own, channels, height, width = views.shape
    down, right = (torch.linspace(-1, 1, side).to(views) for side in (height, width))
    rows = matrices[..., None, None]  # (K, 3, 3, 1, 1)
    found = rows[:, :, 0] * right + (rows[:, :, 1] * down[:, None] + rows[:, :, 2])  # (K, 3, R, R)
    places = (found[:, :2] / found[:, 2:]).permute(0, 2, 3, 1)
    if own == 1:
        return sample(views[:, 0], places, padding=padding, align_corners=True)
    warped = F.grid_sample(
        views.flatten(0, 1), places.repeat(number, 1, 1, 1), padding_mode=padding, align_corners=True
    )
    return warped.view(number, -1, channels, height, width)


def sample(pictures: Tensor, places: Tensor, *, padding: Padding = "zeros", align_corners: bool) -> Tensor:
    """What is at the same places (K, h, w, 2) of each picture: (N, C, H, W) -> (N, K, C, h, w)

    A quarter of the views at a time, one below the other: a picture is copied four times, not K times, and
    four threads have work.
    """
    number, channels = pictures.shape[:2]
    count, height, width, _ = places.shape
    groups = math.gcd(count, 4)
    found = F.grid_sample(
        pictures[:, None].expand(-1, groups, -1, -1, -1).flatten(0, 1),
        places.reshape(groups, -1, width, 2).repeat(number, 1, 1, 1),
        padding_mode=padding,
        align_corners=align_corners,
    )  # (N * groups, C, K / groups * h, w)
    found = found.view(number, groups, channels, -1, height, width)
    return found.transpose(2, 3).reshape(number, count, channels, height, width)


def shade(views: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Views (N, K, 3, R, R), brighter and stronger; clamped to [0, 1] after each.

    Args:
        brightness: added (K,).
        contrast: factor (K,).
    """
    brightness, contrast = brightness[:, None, None, None], contrast[:, None, None, None]
    return ((views + brightness).clamp(0, 1) * contrast).clamp(0, 1)


def tint(views: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Views (N, K, 3, R, R) in [0, 1], with saturation multiplied and hue turned in the HSV model.

    A. R. Smith, Color Gamut Transform Pairs, SIGGRAPH 1978. Where it changes nothing it is left out, because
    its gradient has kinks where two channels are the same, as they are in white and black.

    Args:
        saturation: factor (K,); what it makes ends at 1.
        hue: turns (K,).
    """
    saturation, hue = saturation[:, None, None], hue[:, None, None]
    tinted: Tensor = _Tint.apply(views, saturation, hue)
    is_changed = (saturation != 1) | (hue != 0)
    return torch.where(is_changed[..., None], tinted, views)


class _Tint(torch.autograd.Function):
    """What `tint` does, with its gradient in a fraction of the passes that autograd makes over the pixels.

    At the ends of clamps the gradient is 0, and what is largest in several channels shares it, as in torch.
    """

    @staticmethod
    def forward(ctx: Any, views: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
        red, green, blue = views.unbind(2)
        value = views.amax(2)
        chroma = value - views.amin(2)
        divisor = torch.where(chroma == 0, 1.0, chroma)
        is_red = (red >= green) & (red >= blue)
        is_green = (green >= blue) & ~is_red
        within = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green)) / divisor
        sextant = torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0)) + within + 6 * hue
        share = chroma.div_(value + 1e-8).mul_(saturation).clamp_(0, 1)
        taken = value * share
        places = [(sextant + offset).remainder_(6) for offset in (5, 3, 1)]
        ramps = [torch.minimum(place, 4 - place).clamp_(0, 1) for place in places]
        tinted = torch.stack([torch.addcmul(value, taken, ramp, value=-1) for ramp in ramps], 2)
        ctx.save_for_backward(
            views, value, divisor, within, is_red, is_green, share, saturation, *places, *ramps
        )
        return tinted

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        views, value, divisor, within, is_red, is_green, share, saturation, *rest = ctx.saved_tensors
        to_ramps, to_sextant = torch.zeros_like(value), torch.zeros_like(value)
        for slope, place, ramp in zip(slopes[0].unbind(2), rest[:3], rest[3:], strict=True):
            to_ramps.addcmul_(slope, ramp)
            rising = ((ramp > 0) & (ramp < 1)).to(slope).copysign_(2 - place)
            to_sextant.addcmul_(slope, rising)
        to_share = to_ramps * (share < 1) * (value / (value + 1e-8))
        to_value = slopes[0].sum(2) + share * (to_share - to_ramps)
        to_within = to_sextant * (value * share).neg_() / divisor
        to_chroma = to_share.mul_(saturation).addcmul_(to_within, within).neg_()
        most, least = ((views == end[:, :, None]).to(views) for end in (value, views.amin(2)))
        found = most * ((to_value + to_chroma) / most.sum(2))[:, :, None]
        found.addcmul_(least, (to_chroma / least.sum(2))[:, :, None], value=-1)
        by_red, by_green = to_within * is_red, to_within * is_green
        by_blue = to_within - by_red - by_green
        found[:, :, 0] += by_blue - by_green
        found[:, :, 1] += by_red - by_blue
        found[:, :, 2] += by_green - by_red
        return found, None, None


def soften(views: Tensor, share: Tensor) -> Tensor:
    """Views (N, K, C, R, R) mixed with themselves blurred by a 3x3 kernel; the outermost pixels stay.

    The kernel is that of Pillow's filter SMOOTH, 1 around and 5 within.

    Args:
        share: of the sharp view (K,), in [0, 1].
    """
    inner = views[..., 1:-1, 1:-1]
    # added up by slices: a pooling or a convolution of single channels takes several times as long on a CPU
    beside = views[..., :-2] + views[..., 1:-1] + views[..., 2:]
    around = beside[..., :-2, :] + beside[..., 1:-1, :] + beside[..., 2:, :]
    blurred = (around + 4 * inner) / 13
    return views + F.pad((1 - share[:, None, None, None]) * (blurred - inner), (1, 1, 1, 1))


def blot(views: Tensor, box: Tensor) -> Tensor:
    """Views (N, K, C, R, R), black within a box: its left, top, right and bottom in pixels (4,)."""
    down, right = (torch.arange(side, device=views.device) for side in views.shape[-2:])
    inside = (down[:, None] >= box[1]) & (down[:, None] < box[3]) & (right >= box[0]) & (right < box[2])
    return views * ~inside


def dust(views: Tensor, strength: Tensor, grain: Tensor) -> Tensor:
    """Views (N, K, C, R, R) with noise (K, C, R, R), the same in all pictures; no longer all in [0, 1].

    Args:
        strength: standard deviation (K,), where the noise has 1.
    """
    return views + strength[:, None, None, None] * grain


def copied_at_once(parameters: Sequence[Tensor], like: Tensor) -> list[Tensor]:
    """The same with the device and dtype of another tensor, in one copy."""
    copied = torch.cat([parameter.flatten() for parameter in parameters]).to(like, non_blocking=True)
    pieces = torch.split(copied, [parameter.numel() for parameter in parameters])
    return [piece.view(parameter.shape) for piece, parameter in zip(pieces, parameters, strict=True)]


def _homogeneous(rows: Tensor) -> Tensor:
    """(K, 6) -> (K, 3, 3)"""
    last = torch.tensor([0.0, 0.0, 1.0]).to(rows).expand(len(rows), 3)
    return torch.cat([rows, last], 1).view(-1, 3, 3)
