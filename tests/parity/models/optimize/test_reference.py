"""Our loop gives the losses of a plain one that was written apart from it, on equal weights and seeds.

Tolerance: 1e-5 over 10 steps. Each adds in its own order, and Adam's first steps are signs of gradients, so
latents may part while losses agree; a wrong formula or another order of random numbers shows at 1e-3 from
the first step. With some seeds a place of the latents comes to lie all but midway between two codes; then the
loops may part, both right, after some steps. The seeds here have none.
"""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from benchmarks.drawing import reference
from models.generators import _vqgan_latents, complete
from models.networks.shared_networks import Networks
from models.networks.vqgan import VqganConfig, read_card
from models.networks.vqgan.vqgan_model import Vqgan
from models.optimize.init_image import random_image
from models.requests.generator import Drawing
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.requests.request import Presets
from models.runtime.batched_steps import RoundRobin

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
    scheduler = RoundRobin()

    def __init__(self, vqgan: Vqgan, clip) -> None:
        self.vqgan, self.guides = lambda: vqgan, lambda: [clip]
        self.prior = self.held_out = lambda: None


def losses_of_both(
    vqgan: Vqgan,
    clip,
    width: int,
    height: int,
    *,
    options,
    seed: int = 8,
    presets: Presets = Presets(),
    **formulas,
):
    """The two lists of losses, ours first.

    Args:
        formulas: what the plain loop is told beside texts, size, seed and the number of cutouts.
    """
    steps = 10
    request = complete(
        NetworkNames(),
        generator="vqgan_clip",
        prompts=parse(PROMPTS),
        width=width,
        height=height,
        steps=steps,
        seed=seed,
        options=options,
        presets=presets,
    )
    generator = partial(_vqgan_latents.generate, Given(vqgan, clip))
    ours = [step.loss() for step in generator(Drawing(request, seed=seed))]
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
        seed=seed,
        resize_dtype=torch.float64,  # ours resizes by a matrix, rounded once
        **formulas,
    )
    return ours, list(plain)


@pytest.mark.parametrize(
    ("width", "height", "seed"),
    [(96, 96, 12), (144, 136, 13), (144, 136, 14)],
    ids=["grow", "shrink", "shrink too"],
)
def test_losses_on_the_demo_models_are_those_of_the_plain_loop(width, height, seed):
    networks = Networks(NetworkNames())
    ours, plain = losses_of_both(
        networks.vqgan(), networks.clip("demo-icons"), width, height, seed=seed, options=PLAIN
    )
    assert plain == pytest.approx(ours, abs=1e-5)
    assert max(plain) - min(plain) > 0.01  # it moved


@pytest.fixture(scope="module")
def demo():
    networks = Networks(NetworkNames())
    return networks.vqgan(), networks.clip("demo-icons")


@pytest.mark.parametrize(
    ("compat", "formulas"),
    [
        ("crowson", {"learning_rate": 0.05}),
        ("nerdyrodent", {"method": "pooling", "learning_rate": 0.1}),
        ("pixray", {"method": "pixray", "learning_rate": 0.2, "drops": [0.75]}),
    ],
)
def test_losses_under_a_programs_defaults_follow_its_formulas(demo, compat, formulas):
    if compat == "pixray":
        with torch.no_grad():
            noise = random_image("perlin", (48, 64), torch.Generator().manual_seed(12))
            formulas = formulas | {"start": demo[0].encode(noise)}
    presets = Presets(compat=compat)
    ours, plain = losses_of_both(
        *demo, *(64, 48), seed=12, presets=presets, options={"cutouts": 3}, **formulas
    )
    assert plain == pytest.approx(ours, abs=1e-5)
    assert max(plain) - min(plain) > 0.01  # it moved


def test_losses_of_augmented_crops_are_those_of_the_plain_loop(demo):
    options = PLAIN | {"cutout_method": "updated", "cutouts": 3}
    ours, plain = losses_of_both(*demo, *(64, 48), seed=11, options=options, method="updated")
    assert plain == pytest.approx(ours, abs=1e-5)
    assert max(plain) - min(plain) > 0.01  # it moved


class Exact:
    """Small networks in double precision, of random weights.

    What is asked of the latents themselves makes losses follow each of them. In single precision those with
    next to no gradient part at once: Adam's first steps are as long for them as for others.
    """

    name, image_size, dimension = "exact", 16, 40
    mean, std = torch.full((1, 3, 1, 1), 0.5), torch.full((1, 3, 1, 1), 0.25)

    def __init__(self) -> None:
        sizes = {"z_channels": 16, "resolution": 32, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1}
        config = {"embed_dim": 8, "n_embed": 50, "ddconfig": sizes | {"attn_resolutions": [16]}}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.vqgan = Vqgan(VqganConfig.model_validate(config), "VQModel")
            codebook = torch.randn(self.vqgan.codebook.shape)
            self.vqgan.read({**self.vqgan.state_dict(), "quantize.embedding.weight": codebook})
            self._weights = torch.randn(3 * 16 * 16, self.dimension).double()
        self.vqgan.double()

    def encode_image(self, images):
        return F.normalize(((images - self.mean) / self.std).flatten(1) @ self._weights, dim=-1)

    def encode_text(self, texts):
        rows = [torch.randn(40, generator=torch.Generator().manual_seed(len(text))) for text in texts]
        return F.normalize(torch.stack(rows), dim=-1)


def towards_start(latents, start, step):
    return 0.5 * F.mse_loss(latents, start) / 2


def towards_zero(latents, start, step):
    iteration = step - 1
    return 0.5 * F.mse_loss(latents, torch.zeros_like(latents)) / (2 * iteration + 1) / 2


def towards_direction(latents, start, step):
    cosine = F.cosine_similarity(latents.flatten(), start.flatten(), dim=0)
    return 0.5 * torch.arccos(cosine.clamp(max=1 - 1e-15)) ** 2 / 2


def decaying(latents, start, step):
    weight = max(0.0, 1.5 - 0.6 * ((step - 1) // 3))
    return weight * latents.pow(2).mean() / 2


DECAY = {"latent_decay": 1.5, "latent_decay_drop": 0.6, "latent_decay_every": 3, "clamp": False}


@pytest.mark.parametrize(
    ("presets", "options", "formulas"),
    [
        (Presets(compat="crowson"), {"init_weight": 0.5}, {"learning_rate": 0.05, "penalty": towards_start}),
        (
            Presets(compat="nerdyrodent"),
            {"init_weight": 0.5},
            {"method": "pooling", "learning_rate": 0.1, "penalty": towards_zero},
        ),
        (
            Presets(compat="pixray"),
            {"init_weight": 0.5, "start": "random"},
            {"method": "pixray", "learning_rate": 0.2, "drops": [0.75], "penalty": towards_direction},
        ),
        # the MSE-regularized notebook: Adam starts anew whenever the weight falls, and nothing clamps
        (Presets(), PLAIN | DECAY, {"penalty": decaying, "restarts": [4, 7, 10], "clamp": False}),
    ],
    ids=["crowson", "nerdyrodent", "pixray", "decay"],
)
def test_losses_with_what_a_program_asks_of_latents_follow_its_formulas(presets, options, formulas):
    networks = Exact()
    ours, plain = losses_of_both(
        networks.vqgan, networks, 48, 32, presets=presets, options=options | {"cutouts": 5}, **formulas
    )
    assert plain == pytest.approx(ours, abs=1e-5)
    assert max(plain) - min(plain) > 0.01  # it moved


class RandomViTB32:
    """ViT-B/32's image side as open_clip builds it, with random weights; texts get random vectors."""

    name = "random"
    dimension = 512

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
    options = PLAIN | {"cutouts": 2, "learning_rate": 1.0}
    ours, plain = losses_of_both(vqgan, clip, 48, 32, options=options, learning_rate=1.0)
    assert plain == pytest.approx(ours, abs=1e-5)
    assert max(plain) - min(plain) > 0.001  # it moved
