"""Motion: an image zoomed, shifted and rotated."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.requests.options import DrawingOptions


@dataclass(frozen=True)
class Motion:
    """One move: an affine map of the image's points.

    Attributes:
        zoom: above 1, things become larger.
        pan: shift to the right and downwards, in widths and heights.
        turn: radians, to the right.
    """

    zoom: float
    pan: tuple[float, float]
    turn: float

    @classmethod
    def of(cls, options: DrawingOptions) -> "Motion":
        """The move of a request's options."""
        return cls(options.zoom, (options.pan_x, options.pan_y), math.radians(options.rotate))

    def matrix(self, aspect: float) -> Tensor:
        """Where points go: (2, 3), for coordinates in [-1, 1] to the right and downwards.

        Args:
            aspect: width over height, so that a rotation does not shear.
        """
        cos, sin = self.zoom * math.cos(self.turn), self.zoom * math.sin(self.turn)
        return torch.tensor([[cos, -sin / aspect, 2 * self.pan[0]], [sin * aspect, cos, 2 * self.pan[1]]])

    def warp(self, images: Tensor) -> Tensor:
        """The image after the move, reflected at its edges: (N, 3, H, W)"""
        return self._moved(images, "bicubic").clamp(0, 1)

    def carry(self, field: Tensor) -> Tensor:
        """Values of any range, moved with the places of the image that they belong to: (N, C, h, w)"""
        return self._moved(field, "bilinear")

    def _moved(self, images: Tensor, mode: str) -> Tensor:
        height, width = images.shape[2:]
        forth = torch.cat([self.matrix(width / height), torch.tensor([[0.0, 0.0, 1.0]])])
        back = torch.linalg.inv(forth)[:2]
        grid = F.affine_grid(back[None].expand(len(images), -1, -1), list(images.shape), align_corners=False)
        return F.grid_sample(
            images, grid.to(images), mode=mode, padding_mode="reflection", align_corners=False
        )
