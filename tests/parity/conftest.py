"""What the parity tests share: real photos."""

import pytest
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_images


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    """People, food, animals, buildings, flowers; RGB, 427x640 to 512x512, one of them grey."""
    arrays = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    arrays += [skimage.data.camera(), *load_sample_images().images]
    return [Image.fromarray(array).convert("RGB") for array in arrays]
