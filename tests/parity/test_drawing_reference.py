"""Our loop gives the losses of a plain one that was written apart from it, on equal weights and seeds.

Tolerance: 1e-5 over 10 steps. Each adds in its own order, and Adam's first steps are signs of gradients, so
latents may part while losses agree; a wrong formula or another order of random numbers shows at 1e-3 from
the first step. With some seeds a place of the latents comes to lie all but midway between two codes; then the
loops may part, both right, after some steps. The seeds here have none.
"""

import pytest
import torch
from torch.nn import functional as F

from benchmarks import reference
from models.generators import complete
from models.generators.vqgan_clip import VqganClip
from models.networks import NetworkNames, Networks
from models.prompts import parse
from models.vqgan import read_card
from models.vqgan.network import Vqgan

PROMPTS = "a red heart|a cat:0.5|scribbles:-0.3|a lamp:1:1.2|noise:-0.5:-0.9"
PLAIN = {
    "start": "random",
    "cutout_method": "original",
    "cutouts": 4,
    "learning_rate": 0.1,
    "learning_rate_hold": 1,
    "beta2": 0.999,
    "init_weight": 0,
    "commitment": 0,
    "background": 0,
    "smoothness": 0,
    "contrast": 0,
    "templates": ["{prompt}"],
}


class Given:
    """Networks that are at hand already."""

    device = torch.device("cpu")

    def __init__(self, vqgan: Vqgan, clip) -> None:
        self.vqgan, self.guides = lambda: vqgan, lambda: [clip]
        self.prior = self.judge = lambda: None


def losses_of_both(vqgan: Vqgan, clip, width: int, height: int, steps: int = 10, seed: int = 8, **options):
    """The two lists of losses, ours first."""
    request = complete(
        NetworkNames(),
        generator="vqgan_clip",
        prompts=parse(PROMPTS),
        width=width,
        height=height,
        steps=steps,
        seed=seed,
        options=PLAIN | options,
    )
    generator = VqganClip(Given(vqgan, clip))
    ours = [step.loss() for step in generator.generate(request, seed=seed, pictures={})]
    with torch.no_grad():
        texts = clip.encode_text([prompt.text for prompt in request.prompts])
    networks = reference.Networks(
        decode=lambda latents: vqgan.decode(latents) * 2 - 1,
        codebook=vqgan.codebook,
        encode_image=lambda pixels: clip.encode_image(pixels * clip.std + clip.mean),
        mean=clip.mean,
        std=clip.std,
        size=clip.image_size,
    )
    plain = reference.draw(
        networks,
        texts,
        [prompt.weight for prompt in request.prompts],
        [-torch.inf if prompt.stop is None else prompt.stop for prompt in request.prompts],
        grid=(height // vqgan.factor, width // vqgan.factor),
        steps=steps,
        cutouts=request.options["cutouts"],
        learning_rate=request.options["learning_rate"],
        seed=seed,
        resize_dtype=torch.float64,  # ours resizes by a matrix, rounded once
    )
    return ours, list(plain)


@pytest.mark.parametrize(
    ("width", "height", "seed"),
    [(96, 96, 7), (144, 136, 9), (144, 136, 8)],
    ids=["grow", "shrink", "shrink too"],
)
def test_losses_on_the_demo_models_are_those_of_the_plain_loop(width, height, seed):
    networks = Networks(NetworkNames())
    ours, plain = losses_of_both(networks.vqgan(), networks.clip("demo-icons"), width, height, seed=seed)
    assert plain == pytest.approx(ours, abs=1e-5)
    assert max(plain) - min(plain) > 0.01  # it moved


class RandomViTB32:
    """ViT-B/32's image side as open_clip builds it, with random weights; texts get random vectors."""

    def __init__(self) -> None:
        import open_clip

        self._model = open_clip.create_model("ViT-B-32").eval().requires_grad_(False)
        for parameter in self._model.visual.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)  # as they are drawn, they see all pictures alike
        self.name, self.image_size, self.dimension = "random", 224, 512
        self.mean = torch.tensor([0.48, 0.46, 0.41]).view(1, 3, 1, 1)
        self.std = torch.tensor([0.27, 0.26, 0.28]).view(1, 3, 1, 1)

    def encode_image(self, images):
        return F.normalize(self._model.encode_image((images - self.mean) / self.std), dim=-1)

    def encode_text(self, texts):
        rows = [torch.randn(512, generator=torch.Generator().manual_seed(len(text))) for text in texts]
        return F.normalize(torch.stack(rows), dim=-1)


@pytest.mark.timeout(240)
def test_losses_on_vit_b_32_and_f16_16384_shapes_are_those_of_the_plain_loop():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        card = read_card("imagenet-f16-16384")
        vqgan = Vqgan(card.config, card.kind)
        # a codebook as wide as trained ones: taming's first one is all but zero
        codebook = torch.randn(vqgan.codebook.shape) * 0.5
        vqgan.read({**vqgan.state_dict(), "quantize.embedding.weight": codebook})
        clip = RandomViTB32()
    # fast enough that codes change at each step
    ours, plain = losses_of_both(vqgan, clip, 48, 32, cutouts=2, learning_rate=1.0)
    assert plain == pytest.approx(ours, abs=1e-5)
    assert max(plain) - min(plain) > 0.001  # it moved
