"""Style: the colors and textures of one picture, asked of another."""

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from models.networks.shared_networks import Networks
from models.networks.vqgan.decoder import residual
from models.optimize.image_losses import Term
from models.optimize.prompt_targets import find_picture, to_tensor
from models.requests.generator import GenerationError
from models.requests.options import DrawingOptions


class Style:
    """How far a picture is from another one's colors and textures, wherever in the picture they are.

    Both are seen through the levels of a VQGAN's encoder. Of each level, and of the pixels themselves, the
    products of all pairs of channels are averaged over the places (Gatys, Ecker and Bethge 2016, Image Style
    Transfer Using Convolutional Neural Networks); one more channel, of ones, brings in the means.

    Args:
        encoder: taming's.
        picture: (1, 3, H, W) in [0, 1]

    Raises:
        GenerationError: there is no encoder.
    """

    def __init__(self, encoder: nn.Module | None, picture: Tensor) -> None:
        if encoder is None:
            raise GenerationError("this VQGAN's weights have no encoder: it cannot take up a style")
        self._encoder: Any = encoder
        with torch.no_grad():
            levels = self._levels(picture)
            # so that each level counts the same; a picture of one color does not vary at all
            self._scales = [level.std().clamp(min=0.01) for level in levels]
            self._targets = [gram(level / scale) for level, scale in zip(levels, self._scales, strict=True)]

    def __call__(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> scalar"""
        losses = [
            (gram(level / scale) - target).square().mean()
            for level, scale, target in zip(self._levels(image), self._scales, self._targets, strict=True)
        ]
        return torch.stack(losses).mean()

    def _levels(self, image: Tensor) -> list[Tensor]:
        """The pixels, and what each of the encoder's resolutions makes of them."""
        hidden = self._encoder.conv_in(image * 2 - 1)
        levels = [image]
        for level in self._encoder.down:
            for block in level.block:
                hidden = residual(block, hidden)
            levels.append(hidden)
            if hasattr(level, "downsample"):
                hidden = level.downsample(hidden)
        return levels


def style_of(
    options: DrawingOptions,
    pictures: Mapping[str, Image.Image],
    size: tuple[int, int],
    networks: Networks,
) -> list[Term]:
    """The style that a request asks for, if any; its picture is cut to the shape of (H, W).

    Raises:
        GenerationError: the picture is not there, or the VQGAN has no encoder.
    """
    if not options.style or options.style_image is None:
        return []
    fitted = ImageOps.fit(find_picture(pictures, options.style_image), size[::-1])
    style = Style(networks.vqgan().encoder, to_tensor(fitted, size, networks.device))
    return [(options.style, style)]


def gram(features: Tensor) -> Tensor:
    """Mean products of pairs of channels, one of ones among them: (1, C, H, W) -> (C + 1, C + 1)"""
    rows = torch.cat([features[0], torch.ones_like(features[0, :1])]).flatten(1)
    return rows @ rows.T / rows.shape[1]
