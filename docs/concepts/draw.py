"""Draw the pictures of docs/concepts.md with the demo models: `python docs/concepts/draw.py`."""

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from models.cutouts.cutouts import random_views  # noqa: E402 - importable from any folder only now
from models.generators import complete, find  # noqa: E402
from models.networks.shared_networks import Networks  # noqa: E402
from models.networks.vqgan.vqgan_model import Vqgan  # noqa: E402
from models.requests.generator import Drawing  # noqa: E402
from models.requests.network_names import NetworkNames  # noqa: E402
from models.requests.prompts import parse  # noqa: E402

SIDE = 192  # pixels, of a photo and of each picture on a sheet
LABEL = 22
SHOWN_STEPS = (1, 10, 30, 60)
PROMPT = "a red heart"
SEED = 1


def main() -> None:
    """Draw all of them, each beside this file."""
    networks = Networks(NetworkNames())
    photo = Image.open(ROOT / "examples" / "cat.jpg").convert("RGB")
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    save("codes", sheet_of(coded(square, networks.vqgan())))
    save("cutouts", cutouts_of(square))
    save("steps", sheet_of(drawn(networks)))


@torch.inference_mode()
def coded(photo: Image.Image, vqgan: Vqgan) -> dict[str, Image.Image]:
    """A photo, the numbers of its codes as shades, and what the decoder makes of them."""
    latents = vqgan.encode(tensor_of(photo))  # (1, D, h, w)
    codes = vqgan.nearest(latents)[0]  # (h, w)
    shades = (codes * 255 // (len(vqgan.codebook) - 1)).to(torch.uint8).numpy()
    height, width = codes.shape
    grid = Image.fromarray(shades).resize((SIDE, SIDE), Image.Resampling.NEAREST).convert("RGB")
    return {
        f"{SIDE} x {SIDE} pixels": photo,
        f"{height} x {width} codes": grid,
        "decoded": image_of(vqgan.decode(latents)),
    }


def cutouts_of(photo: Image.Image) -> Image.Image:
    """Sixteen views of a photo, as CLIP would be shown them in one step."""
    views = random_views(tensor_of(photo), 16, SIDE // 2, torch.Generator().manual_seed(SEED), whole=0.75)[0]
    sheet = Image.new("RGB", (8 * SIDE // 2, 2 * SIDE // 2), "white")
    for place, view in enumerate(views):
        at = (place % 8 * SIDE // 2, place // 8 * SIDE // 2)
        sheet.paste(image_of(view[None]).resize((SIDE // 2 - 4,) * 2), at)
    return sheet


def drawn(networks: Networks) -> dict[str, Image.Image]:
    """A drawing on its way."""
    request = complete(
        networks.names,
        generator="vqgan_clip",
        prompts=parse(PROMPT),
        steps=SHOWN_STEPS[-1],
        seed=SEED,
    )
    steps = find("vqgan_clip").load(networks)(Drawing(request, seed=SEED))
    return {
        f"step {step.index}": Image.fromarray(step.render()) for step in steps if step.index in SHOWN_STEPS
    }


def sheet_of(pictures: dict[str, Image.Image]) -> Image.Image:
    """Pictures side by side, each over its name."""
    sheet = Image.new("RGB", (len(pictures) * SIDE, SIDE + LABEL), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for place, (name, picture) in enumerate(pictures.items()):
        sheet.paste(picture.resize((SIDE - 8, SIDE - 8), Image.Resampling.NEAREST), (place * SIDE + 4, 4))
        pen.text((place * SIDE + SIDE / 2, SIDE), name, "black", font, anchor="ma")
    return sheet


def tensor_of(image: Image.Image) -> Tensor:
    """(1, 3, H, W) in [0, 1]"""
    pixels: NDArray[np.uint8] = np.array(image)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def image_of(picture: Tensor) -> Image.Image:
    """The picture of (1, 3, H, W) in about [0, 1]."""
    pixels = picture[0].clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def save(name: str, image: Image.Image) -> None:
    """Write a picture beside this file."""
    image.save(HERE / f"{name}.webp", quality=85, method=6)


if __name__ == "__main__":
    main()
