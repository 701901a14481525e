"""A large JPEG that is decoded small has the embedding that it has at full size."""

import io

import numpy as np
import pytest
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_image

from jobs.images import ImageLimits, decode
from models.clip.encoder import OpenClipEncoder
from models.weights_io.card import WEIGHTS

LIMITS = ImageLimits(pixels=40_000_000, side=16_384, aspect=50)
PHOTOS = {
    "chelsea": skimage.data.chelsea,
    "coffee": skimage.data.coffee,
    "rocket": skimage.data.rocket,
    "astronaut": skimage.data.astronaut,
    "flower": lambda: load_sample_image("flower.jpg"),
    "china": lambda: load_sample_image("china.jpg"),
}


@pytest.fixture(scope="module", params=["demo-photo", "demo-icons"])
def encoder(request: pytest.FixtureRequest) -> OpenClipEncoder:
    return OpenClipEncoder.load(request.param, WEIGHTS, "cpu")


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("side", [1550, 2600, 4000])
def test_photos_keep_their_embedding(encoder: OpenClipEncoder, name: str, side: int) -> None:
    photo = Image.fromarray(PHOTOS[name]())
    scale = side / min(photo.size)
    large = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    large.save(file, "JPEG", quality=90)
    whole = decode(file.getvalue(), LIMITS)
    draft = decode(file.getvalue(), LIMITS, encoder.draft_size)
    assert draft.width < whole.width
    rows = encoder.encode_images(np.stack([encoder.preprocess(whole), encoder.preprocess(draft)]))
    assert float(rows[0] @ rows[1]) > 0.995
