"""Losses of the image itself, without CLIP, each times its option's weight."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from models.requests.options import DrawingOptions
from models.runtime.autograd import straight_through


@dataclass(frozen=True)
class ImageLosses:
    """The weighted sum of the losses that need no other image. Equal objects compute the same."""

    smoothness: float
    saturation: float
    symmetry: float
    palette_weight: float
    edge: float
    background: float
    tile: bool

    @classmethod
    def of(cls, options: DrawingOptions) -> "ImageLosses | None":
        """None: all weights are 0. A drawing that moves is not held to the white of its start."""
        values = {field.name: getattr(options, field.name) for field in fields(cls)}
        if options.moves:
            values["background"] = 0.0
        losses = cls(**values)
        return None if losses == cls(0, 0, 0, 0, 0, 0, losses.tile) else losses

    def __call__(self, image: Tensor, palette: Tensor, edge_color: Tensor, paper: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> scalar

        Args:
            palette: (P, 3)
            edge_color: (1, 3)
            paper: where the start was white, as `white_mask`.
        """
        loss = image.new_zeros(())
        if self.smoothness:
            loss = loss + self.smoothness * smoothness(image, wraps=self.tile)
        if self.saturation:
            loss = loss - self.saturation * colorfulness(image)
        if self.symmetry:
            loss = loss + self.symmetry * asymmetry(image)
        if self.palette_weight:
            loss = loss + self.palette_weight * off_palette(image, palette)
        if self.edge:
            loss = loss + self.edge * off_margins(image, edge_color)
        if self.background:
            loss = loss + self.background * held_white(image, paper)
        return loss


def smoothness(images: Tensor, *, wraps: bool = False) -> Tensor:
    """Mean absolute difference of neighbors, across plus down: (N, C, H, W) -> scalar

    Total variation, of Rudin, Osher and Fatemi 1992.

    Args:
        wraps: the last column is a neighbor of the first one, and the last row of the first.
    """
    if wraps:
        images = F.pad(images, (0, 1, 0, 1), "circular")
    across = (images[..., 1:] - images[..., :-1]).abs().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    return across + down


def colorfulness(images: Tensor) -> Tensor:
    """How vivid the colors are and how they differ: (N, 3, H, W) -> scalar, 0 for gray, seldom above 1

    √(σ²(rg) + σ²(yb)) + 0.3 √(μ²(rg) + μ²(yb)), with rg = R - G and yb = (R + G) / 2 - B, of Hasler and
    Süsstrunk, Measuring Colourfulness in Natural Images, 2003.
    """
    red, green, blue = images.unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue]).flatten(1)
    tiny = 1e-8  # keeps the gradient of a gray image finite
    spread = (opponents.var(1, correction=0).sum() + tiny).sqrt()
    shift = (opponents.mean(1).square().sum() + tiny).sqrt()
    return spread + 0.3 * shift


def asymmetry(images: Tensor) -> Tensor:
    """Mean squared distance from the mirror image, left to right: (N, C, H, W) -> scalar"""
    return (images - images.flip(-1)).square().mean()


def off_palette(images: Tensor, palette: Tensor) -> Tensor:
    """Mean distance from the nearest color of a palette: (N, 3, H, W), (P, 3) -> scalar"""
    distance: Tensor = (images - nearest_colors(images, palette)).norm(dim=1)
    return distance.mean()


def off_margins(images: Tensor, color: Tensor) -> Tensor:
    """Mean squared distance of the margins from a color: (N, 3, H, W), (1, 3) -> scalar

    A margin is a sixteenth of the shorter side.
    """
    height, width = images.shape[2:]
    margin = max(1, min(height, width) // 16)
    off = (images - color[:, :, None, None]).square()
    sides = off[..., :margin], off[..., -margin:]
    ends = off[..., :margin, margin:-margin], off[..., -margin:, margin:-margin]
    return torch.cat([part.flatten() for part in (*sides, *ends)]).mean()


def white_mask(images: Tensor, margin: int = 7) -> Tensor:
    """Where an image is white, `margin` pixels away from ink: (N, 3, H, W) -> (N, 1, H, W) in [0, 1]"""
    ink = (1 - images.amin(1, keepdim=True)).mul(4).clamp(0, 1)
    return 1 - F.max_pool2d(ink, 2 * margin + 1, stride=1, padding=margin)


def held_white(images: Tensor, mask: Tensor) -> Tensor:
    """Mean squared distance from white, weighted by a mask: (N, 3, H, W), (N, 1, H, W) -> scalar"""
    return ((1 - images).pow(2) * mask).mean()


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of tensors of one shape: a scalar"""
    return (a - b).square().mean()


def colors_of(names: Sequence[str], device: torch.device) -> Tensor:
    """Colors as #rrggbb: (P, 3) in [0, 1]"""
    return torch.tensor([list(bytes.fromhex(name[1:])) for name in names], device=device).float().div(255)


def nearest_colors(image: Tensor, palette: Tensor) -> Tensor:
    """Each place's nearest color by Euclidean distance in RGB: (N, 3, H, W), (P, 3) -> (N, 3, H, W)

    One color after the other, so that memory does not grow with the palette.
    """
    nearest, least = torch.empty_like(image), torch.full_like(image[:, :1], torch.inf)
    with torch.no_grad():
        for color in palette[:, :, None, None]:
            distance = (image - color).square().sum(1, keepdim=True)
            nearest = torch.where(distance < least, color, nearest)
            least = torch.minimum(distance, least)
    return nearest


def in_palette(image: Tensor, palette: Tensor) -> Tensor:
    """The image in the palette's colors; its gradient passes unchanged: (N, 3, H, W) -> (N, 3, H, W)"""
    return straight_through(nearest_colors(image, palette), image)
