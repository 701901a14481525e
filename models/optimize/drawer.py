"""Drawers: parameters that render to an image. Imports no torch, since the modules of generators do not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models.optimize.motion import Motion


class Drawer:
    """Parameters that render to an image: VQGAN latents, a pixel grid, a spectrum or strokes.

    Attributes:
        latents: the parameters by name; each requires grad. All methods but `render` may replace them.
        rates: learning rates by the same names, as shares of the schedule's; 1 for a name that is not here.
        resolution: the share of the full size that `render` has, 0.5 or 1.
        svg: of a drawer of shapes: returns them as an SVG document of the image's full size.
    """

    latents: Mapping[str, "Tensor"]
    rates: Mapping[str, float] = {}
    resolution = 1.0
    svg: Callable[[], str] | None = None

    def render(self) -> "Tensor":
        """(1, 3, H, W) in [0, 1], differentiable; smaller while the resolution is below 1."""
        raise NotImplementedError

    def init_from(self, image: "Tensor") -> None:
        """Fit the latents to an image of the full size, as well as they can: (1, 3, H, W) in [0, 1]"""
        raise NotImplementedError

    def from_start(self) -> "Tensor":
        """Mean squared distance of the latents from where they started: a scalar."""
        raise NotImplementedError

    def project(self) -> None:
        """Move the latents, in place, to the nearest valid ones. By default all are valid."""

    def move(self, motion: "Motion") -> None:
        """Zoom, shift and rotate the image."""
        resolution, self.resolution = self.resolution, 1.0
        self.init_from(motion.warp(self.render().detach()))
        self.resolution = resolution

    def set_resolution(self, share: float) -> None:
        """Render at this share of the full size; the image is kept."""
        self.resolution = share

    def latent_loss(self, index: int) -> "Tensor | None":
        """The loss of the latents themselves in step `index`, of 1 … steps: a scalar. None: there is none."""
        return None

    def restarts(self, index: int) -> bool:
        """Whether the optimizer starts anew at step `index`."""
        return False

    def hold(self, **latents: "Tensor") -> None:
        """Continue with copies of these latents."""
        self.latents = {
            name: tensor.detach().clone().contiguous().requires_grad_(True)
            for name, tensor in latents.items()
        }


@dataclass(frozen=True)
class DrawerInit:
    """What a drawer starts with.

    Attributes:
        size: (H, W) of the image.
        start: the image to start from, (1, 3, H, W) in [0, 1]; None: the drawer has its own start.
        rng: on the CPU; for the start only, since checkpoints do not keep its state.
        device: of the latents.
    """

    size: tuple[int, int]
    start: "Tensor | None"
    rng: "torch.Generator"
    device: "torch.device"
