"""Pictures to the pixels that a CLIP reads: resized and cropped as it was trained."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor, v2

from models.clip import Pixels

# A picture of 40,000 x 1 pixels would grow to 40,000 times the model's input before its center is taken.
# Longer ones are first cut to this, far more than the square of which the model sees the center.
MAX_ASPECT = 16


class Preprocessing:
    """The model's own transform but for its end: the device normalizes, and bytes are a quarter to move.

    Exact, pixels are Pillow's, as in training, to the last bit. Else torch resizes, in a third of the time:
    of photos one value in 300 is off by 1 of 255. Any thread may call it.

    Args:
        transform: open_clip's for the model.
    """

    def __init__(self, transform: Compose) -> None:
        steps = [step for step in transform.transforms if not isinstance(step, ToTensor | Normalize)]
        self._cuts = len(steps) > 2  # it crops or pads, besides resizing and making RGB
        self._exact = steps
        self._fast = [*map(_of_tensors, steps[:-1])]  # the last one makes RGB, and the picture is that
        self._is_known = all(isinstance(step, Resize | CenterCrop) for step in steps[:-1])

    def __call__(self, image: Image.Image, *, exact: bool) -> Pixels:
        """RGB picture -> (3, R, R) uint8."""
        if self._cuts:
            image = _cut_to_max_aspect(image)
        if exact or not self._is_known or image.mode != "RGB":
            for step in self._exact:
                image = step(image)
            pixels: NDArray[np.uint8] = np.asarray(image).transpose(2, 0, 1)
        else:
            tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            for step in self._fast:
                tensor = step(tensor)
            pixels = tensor.numpy()
        return np.ascontiguousarray(pixels)


def _of_tensors(step: Any) -> Any:
    """The same step for tensors of bytes; torchvision's older `Resize` would make floats of them."""
    if isinstance(step, Resize):
        return v2.Resize(step.size, step.interpolation, step.max_size, antialias=True)
    return step


def _cut_to_max_aspect(image: Image.Image) -> Image.Image:
    """The middle of a picture whose sides differ more than `MAX_ASPECT` times; others unchanged."""
    longest = MAX_ASPECT * min(image.size)
    if max(image.size) <= longest:
        return image
    left, top = (max(0, (side - longest) // 2) for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top))
