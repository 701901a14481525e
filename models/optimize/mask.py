"""Masks: which pixels of a picture are drawn anew; all others stay what they were, exactly."""

from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor

from models.optimize.prompt_targets import find_picture, to_tensor
from models.requests.generator import GenerationError
from models.requests.options import DrawingOptions


class Mask:
    """Puts what is kept over what is drawn.

    Args:
        kept: the picture to keep, (1, 3, H, W) in [0, 1].
        share: of what is drawn in each pixel, (1, 1, H, W) in [0, 1]; where it is 0 nothing changes.
    """

    def __init__(self, kept: Tensor, share: Tensor) -> None:
        self._kept, self._share = kept, share

    def __call__(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) -> (1, 3, H, W); a gradient passes as far as what is drawn shows."""
        return torch.lerp(self._kept, image, self._share)


def mask_of(
    options: DrawingOptions,
    pictures: Mapping[str, Image.Image],
    size: tuple[int, int],
    device: torch.device,
) -> Mask | None:
    """The mask that a request asks for, (H, W) large; what it keeps is of `init_image`.

    Raises:
        GenerationError: a picture is not there, or nothing is to be drawn.
    """
    if options.mask is None or options.init_image is None:
        return None
    share = open_share(find_picture(pictures, options.mask), size, options.mask_feather)
    return Mask(to_tensor(find_picture(pictures, options.init_image), size, device), share.to(device))


def open_share(picture: Image.Image, size: tuple[int, int], feather: int) -> Tensor:
    """How much of each pixel is drawn, by a picture of a mask: (1, 1, H, W) in [0, 1], on the CPU

    What is lighter than medium gray is open; the mask has no soft edges but those of `feather`.

    Args:
        picture: stretched to (H, W).
        feather: pixels along the inside of the border over which the share rises to 1.

    Raises:
        GenerationError: nothing is open.
    """
    gray = picture.convert("L").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    is_open = torch.frombuffer(bytearray(gray.tobytes()), dtype=torch.uint8).view(size) > 127
    if not is_open.any():
        raise GenerationError("the mask has no white: there is nothing to draw")
    share = is_open.float() if feather == 0 else (depth(is_open, feather + 1) / (feather + 1)).clamp(max=1)
    return share[None, None]


def depth(is_open: Tensor, limit: int) -> Tensor:
    """Pixels from each open place to the nearest one that is not, up to a limit: (H, W) -> (H, W)

    Along the rows first, then down the columns (Felzenszwalb and Huttenlocher, Distance Transforms of Sampled
    Functions, 2012). What lies beyond the picture counts as open.
    """
    height, width = is_open.shape
    column = torch.arange(width).expand(height, width)
    before = torch.where(is_open, -limit, column).cummax(1).values
    after = torch.where(is_open, width + limit, column).flip(1).cummin(1).values.flip(1)
    across = torch.minimum(column - before, after - column).clamp(max=limit).float().square()
    nearest = across.clone()
    for down in range(1, min(limit, height)):
        torch.minimum(nearest[down:], across[:-down] + down**2, out=nearest[down:])
        torch.minimum(nearest[:-down], across[down:] + down**2, out=nearest[:-down])
    return nearest.sqrt().clamp(max=limit)
