"""Masks: which pixels of an image are drawn anew; all others keep their exact values."""

import torch
from PIL import Image
from torch import Tensor

from models.optimize.prompt_targets import to_tensor
from models.requests.generator import Drawing, GenerationError
from models.requests.options import DrawingOptions


class Mask:
    """Composes the kept image over the drawn one.

    Args:
        kept: the image to keep, (1, 3, H, W) in [0, 1].
        share: of the drawn image in each pixel, (1, 1, H, W) in [0, 1]; 0: the pixel is kept.
    """

    def __init__(self, kept: Tensor, share: Tensor) -> None:
        self._kept, self._share = kept, share

    def __call__(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) -> (1, 3, H, W); the gradient is scaled by the share."""
        return torch.lerp(self._kept, image, self._share)


def mask_of(drawing: Drawing, options: DrawingOptions, device: torch.device) -> Mask | None:
    """The mask of a request, which keeps pixels of its `init_image`.

    Raises:
        GenerationError: an image is not there, or nothing is to be drawn.
    """
    if options.mask is None or options.init_image is None:
        return None
    share = open_share(drawing.image(options.mask), drawing.size, options.mask_feather)
    return Mask(to_tensor(drawing.image(options.init_image), drawing.size, device), share.to(device))


def open_share(image: Image.Image, size: tuple[int, int], feather: int) -> Tensor:
    """The share of each pixel that is drawn, by the image of a mask: (1, 1, H, W) in [0, 1], on the CPU

    Pixels lighter than medium gray are open; only `feather` makes soft edges.

    Args:
        image: stretched to (H, W).
        feather: pixels along the inside of the border over which the share rises to 1.

    Raises:
        GenerationError: nothing is open.
    """
    gray = image.convert("L").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    is_open = torch.frombuffer(bytearray(gray.tobytes()), dtype=torch.uint8).view(size) > 127
    if not is_open.any():
        raise GenerationError("the mask has no white: there is nothing to draw")
    share = is_open.float() if feather == 0 else (depth(is_open, feather + 1) / (feather + 1)).clamp(max=1)
    return share[None, None]


def depth(is_open: Tensor, limit: int) -> Tensor:
    """Pixels from each open place to the nearest one that is not, up to a limit: (H, W) -> (H, W)

    Along the rows first, then down the columns (Felzenszwalb and Huttenlocher, Distance Transforms of Sampled
    Functions, 2012). Places outside the image count as open.
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
