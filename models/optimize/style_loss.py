"""Style loss: the distance of an image from the colors and textures of another one."""

from typing import Any

import torch
from PIL import ImageOps
from torch import Tensor, nn

from models.networks.shared_networks import Networks
from models.networks.vqgan.decoder import residual
from models.optimize.prompt_targets import to_tensor
from models.requests.generator import Drawing, GenerationError
from models.requests.options import DrawingOptions


class Style:
    """The distance of an image from another one's colors and textures, wherever they are in the image.

    Features are the levels of a VQGAN's encoder, and the pixels themselves. Of each, the products of all
    pairs of channels are averaged over the places (Gatys, Ecker and Bethge 2016, Image Style
    Transfer Using Convolutional Neural Networks); a channel of ones adds the means.

    Args:
        encoder: that of taming-transformers.
        image: (1, 3, H, W) in [0, 1]

    Raises:
        GenerationError: there is no encoder.
    """

    def __init__(self, encoder: nn.Module | None, image: Tensor) -> None:
        if encoder is None:
            raise GenerationError("this VQGAN's weights have no encoder: style needs one")
        self._encoder: Any = encoder
        with torch.no_grad():
            levels = self._levels(image)
            # makes all levels count the same; an image of one color has no deviation
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
        """The pixels, and the features at each resolution of the encoder."""
        hidden = self._encoder.conv_in(image * 2 - 1)
        levels = [image]
        for level in self._encoder.down:
            for block in level.block:
                hidden = residual(block, hidden)
            levels.append(hidden)
            if hasattr(level, "downsample"):
                hidden = level.downsample(hidden)
        return levels


def style_of(drawing: Drawing, options: DrawingOptions, networks: Networks) -> Style | None:
    """The style of a request; its image is cut to the drawing's shape.

    Raises:
        GenerationError: the image is not there, or the VQGAN has no encoder.
    """
    if options.style_image is None:
        return None
    fitted = ImageOps.fit(drawing.image(options.style_image), drawing.size[::-1])
    return Style(networks.vqgan().encoder, to_tensor(fitted, drawing.size, networks.device))


def gram(features: Tensor) -> Tensor:
    """Mean products of pairs of channels, with a channel of ones: (1, C, H, W) -> (C + 1, C + 1)"""
    rows = torch.cat([features[0], torch.ones_like(features[0, :1])]).flatten(1)
    return rows @ rows.T / rows.shape[1]
