"""A spectrum of waves in three colors, moved until CLIP finds the prompt in their sum; needs no VQGAN."""

import math
from typing import TYPE_CHECKING

from pydantic import Field

from models.optimize.drawer import Drawer, DrawerInit
from models.requests import presets as known
from models.requests.generator import Generate, Profile
from models.requests.network_names import NetworkNames
from models.requests.options import DrawingOptions
from models.requests.prompts import check_prompts
from models.requests.request import Presets

if TYPE_CHECKING:
    from torch import Tensor

    from models.networks.shared_networks import Networks

_COLORS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""Square root of the covariance of natural images' colors, by columns: lightness, then two hues.

Of ImageNet, as published with Lucid, https://github.com/tensorflow/lucid.
"""

_BYTES_PER_PIXEL = 180.0
"""Peak memory of a step."""

_DARKEST = 1 / 512
"""Distance that an initial image's values keep from 0 and 1, where the sigmoid has no inverse."""


class Options(DrawingOptions, frozen=True, extra="forbid"):
    """How the waves are weighed."""

    decay: float = Field(
        1.8, ge=0, le=3, description="waves of frequency f learn as 1/f to this power; higher is softer"
    )


def profile(names: NetworkNames, presets: Presets = Presets()) -> Profile:
    """Any size; it decides how fine the finest waves are."""
    options = Options(
        cutouts=12,
        learning_rate=0.05,
        smoothness=2,
        contrast=0.1,
        whole=0.3,
        **known.SKETCH,
    )
    plain = Profile(
        width=224, height=224, steps=100, size_multiple=1, options=options, bytes_per_pixel=_BYTES_PER_PIXEL
    )
    return known.apply(plain, presets)


check = check_prompts


def load(networks: "Networks") -> Generate:
    """Load the CLIPs that guide."""
    from models.optimize.objective import load_guided

    return load_guided(networks, Options, Waves)


class Waves(Drawer):
    """Complex amplitudes as pairs, as a drawer: (1, 3, H, W // 2 + 1, 2).

    The image is the sigmoid of their inverse Fourier transform, mixed into correlated colors. Amplitudes
    are scaled by a power of 1/f: a step changes coarse structure more than fine, as in images (Olah,
    Mordvintsev and Schubert, Feature Visualization, Distill 2017; Mordvintsev et al., Differentiable Image
    Parameterizations, Distill 2018). A wave's amplitude means the same at every resolution.
    """

    def __init__(self, options: Options, init: DrawerInit) -> None:
        import torch

        self._size = init.size
        colors = torch.tensor(_COLORS)
        # scaled so that the first column has unit length: the sigmoid's slope is 1/4
        self._colors = (colors / colors.norm(dim=0).max()).to(init.device)
        self._unmix = torch.linalg.inv(self._colors.cpu()).to(init.device)
        self._scale = _inverse_frequencies(init.size, options.decay).to(init.device)
        if init.start is not None:
            self.init_from(init.start)
        else:
            self.init_from(torch.full((1, 3, *init.size), 0.85, device=init.device))
            noise = 0.01 * torch.randn(1, 3, *self._scale.shape, 2, generator=init.rng)
            self.hold(spectrum=self.latents["spectrum"] + noise.to(init.device))
        self._start = self.latents["spectrum"].detach().clone()

    def render(self) -> "Tensor":
        import torch

        spectrum = torch.view_as_complex(self.latents["spectrum"]) * self._scale
        size = [max(1, round(side * self.resolution)) for side in self._size]
        if size != list(self._size):
            spectrum = _lowest(spectrum, size)
        waves = torch.fft.irfft2(spectrum, s=size, norm="forward")  # (1, 3, H, W)
        return torch.einsum("ij,njhw->nihw", self._colors, waves).sigmoid()

    def init_from(self, image: "Tensor") -> None:
        import torch

        levels = image.clamp(_DARKEST, 1 - _DARKEST).logit()
        waves = torch.einsum("ij,njhw->nihw", self._unmix, levels)
        self.hold(spectrum=torch.view_as_real(torch.fft.rfft2(waves, norm="forward") / self._scale))

    def from_start(self) -> "Tensor":
        return (self.latents["spectrum"] - self._start).pow(2).mean()


def _inverse_frequencies(size: tuple[int, int], decay: float) -> "Tensor":
    """The factor of each wave's amplitude: (H, W // 2 + 1), 1 for a wave as long as the image"""
    import torch

    height, width = size
    side = math.sqrt(height * width)  # frequencies in cycles per mean side, the same in both directions
    down = torch.fft.fftfreq(height)[:, None] * side
    right = torch.fft.rfftfreq(width)[None] * side
    scale: Tensor = (down.square() + right.square()).sqrt().clamp(min=1).pow(-decay)
    return scale


def _lowest(spectrum: "Tensor", size: list[int]) -> "Tensor":
    """The waves that a smaller image can hold: (..., H, W // 2 + 1) -> (..., h, w // 2 + 1)"""
    import torch

    height, width = size
    rows = torch.cat([spectrum[..., : (height + 1) // 2, :], spectrum[..., -(height // 2) :, :]], -2)
    return rows[..., : width // 2 + 1]
