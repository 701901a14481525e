"""The VQGAN: codes, pictures and strict reading of weights; the cutouts of all its views."""

import pytest
import torch
from PIL import Image
from torch import nn

from models.cutouts.crops import random_crops
from models.cutouts.cutouts import random_views
from models.generators import complete, find
from models.generators._vqgan_latents import VqganLatents
from models.generators.vqgan_clip import Options
from models.networks.shared_networks import Networks
from models.networks.vqgan import VqganConfig, load, read_card
from models.networks.vqgan.vqgan_model import EncoderMissing, Vqgan, WeightsMismatch
from models.optimize.clip_loss import spherical_distance
from models.requests.generator import Drawing, GenerationError
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.runtime.autograd import clamp_to_range, straight_through
from models.runtime.batched_steps import RoundRobin
from models.weights_io.card import WEIGHTS

TINY = VqganConfig.model_validate(
    {
        "embed_dim": 8,
        "n_embed": 50,
        "ddconfig": {
            "z_channels": 16,
            "resolution": 32,
            "ch": 32,
            "ch_mult": [1, 2],
            "num_res_blocks": 1,
            "attn_resolutions": [16],
        },
    }
)


@pytest.fixture(scope="module")
def demo():
    return load("demo", WEIGHTS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_demo_vqgan_gives_back_what_it_was_shown(demo):
    """Colors survive: with 32 groups of one channel each they would not."""
    image = torch.ones(1, 3, 96, 96)
    image[:, 1:, 24:72, 24:72] = 0.1  # a red square on white
    again = demo.decode(demo.encode(image)).clamp(0, 1)
    assert (again - image).abs().mean() < 0.06


def tiny(kind):
    """A small VQGAN, and two pictures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Vqgan(TINY, kind), torch.rand(2, 3, 32, 48)


@pytest.mark.parametrize("kind", ["VQModel", "GumbelVQ"])
def test_quantizing_agrees_with_tamings_own_modules(kind):
    vqgan, image = tiny(kind)
    hidden = vqgan.quant_conv(vqgan.encoder(image * 2 - 1))
    if kind == "VQModel":
        expected = vqgan.quantize(hidden)[0]
    else:  # taming adds noise to the choice; without it, the likeliest code is taken
        codes = vqgan.quantize.proj(hidden).argmax(1)
        expected = vqgan.quantize.get_codebook_entry(codes.flatten(), (2, 16, 24, 8))
    assert torch.allclose(expected, vqgan.encode(image), atol=1e-6)
    assert tuple(vqgan.decode(expected).shape) == (2, 3, 32, 48)
    codes = torch.randint(50, (1, 4, 6), generator=generator())
    assert torch.equal(codes, vqgan.nearest(vqgan.lookup(codes)))


@pytest.mark.parametrize("kind", ["VQModel", "GumbelVQ"])
def test_codes_may_be_the_nearest_of_the_first_alone(kind):
    vqgan, image = tiny(kind)
    assert torch.equal(vqgan.lookup(vqgan.codes(image)), vqgan.encode(image))
    hidden = vqgan.quant_conv(vqgan.encoder(image * 2 - 1))
    if kind == "VQModel":
        distances = torch.cdist(hidden.flatten(2).transpose(1, 2), vqgan.codebook[:20])
        expected = distances.argmin(-1).view(2, 16, 24)
    else:
        expected = vqgan.quantize.proj(hidden)[:, :20].argmax(1)
    assert torch.equal(vqgan.codes(image, 20), expected)
    assert vqgan.codes(image).max() >= 20


def test_weights_must_be_the_configs_own_and_the_error_names_them(demo):
    tensors = dict(demo.state_dict())
    missing, extra, other = dict(tensors), dict(tensors), dict(tensors)
    del missing["decoder.conv_in.bias"]
    extra["decoder.surprise"] = torch.zeros(1)
    other["quantize.embedding.weight"] = torch.zeros(2, 2)
    card = read_card("demo")
    for wrong, message in (
        (missing, "decoder.conv_in.bias is missing"),
        (extra, "decoder.surprise is not expected"),
        (other, r"quantize.embedding.weight is \[2, 2\], expected \[4096, 64\]"),
    ):
        with pytest.raises(WeightsMismatch, match=message):
            Vqgan(card.config, card.kind, 32).read(wrong)


def test_weights_of_the_decoder_alone_can_draw_but_not_encode(demo):
    card = read_card("demo")
    kept = ("decoder.", "quantize.", "post_quant_conv.")
    tensors = {key: value for key, value in demo.state_dict().items() if key.startswith(kept)}
    half = Vqgan(card.config, card.kind, card.channels_per_group)
    half.read(tensors)
    latents = demo.lookup(torch.zeros(1, 2, 2, dtype=torch.long))
    assert torch.allclose(demo.decode(latents), half.decode(latents), atol=1e-5)
    with pytest.raises(EncoderMissing, match="no encoder"):
        half.encode(torch.zeros(1, 3, 16, 16))


@pytest.fixture
def half(demo):
    """The demo VQGAN without its encoder."""
    card = read_card("demo")
    vqgan = Vqgan(card.config, card.kind, card.channels_per_group)
    vqgan.read({k: v for k, v in demo.state_dict().items() if not k.startswith(("encoder.", "quant_conv."))})
    return vqgan


class Halved(Networks):
    def __init__(self, vqgan):
        super().__init__(NetworkNames())
        self._vqgan = vqgan


@pytest.mark.parametrize(
    "options",
    [
        {"init_image": "photo"},
        {"start": "perlin"},
        {"start": "random", "zoom": 1.1},
        {"start": "random", "overlay_image": "photo"},
        {"start": "prior"},  # in the color that the text names
    ],
    ids=str,
)
def test_what_takes_up_pictures_needs_an_encoder_and_says_so(half, options):
    request = request_of({"cutouts": 1} | options)
    pictures = {"photo": Image.new("RGB", (20, 20))}
    with pytest.raises(GenerationError, match="no encoder"):
        find("vqgan_clip").load(Halved(half))(Drawing(request, seed=1, images=pictures))


def test_weights_of_the_decoder_alone_draw_from_random_codes_and_from_the_prior(half):
    for start in ({"start": "random"}, {"start": "prior", "paint": False}):
        request = request_of({"cutouts": 1} | start)
        *_, last = find("vqgan_clip").load(Halved(half))(Drawing(request, seed=1))
        assert last.render().any()


def request_of(options, steps=2):
    prompts = parse("a red heart")
    sizes = {"width": 48, "height": 32}
    return complete(
        NetworkNames(), generator="vqgan_clip", prompts=prompts, steps=steps, seed=1, options=options, **sizes
    )


@pytest.mark.parametrize(
    ("height", "width"), [(12, 12), (4, 6)], ids=["with attention as in training", "small"]
)
def test_a_seamless_picture_is_the_same_wherever_it_is_cut(demo, height, width):
    latents = demo.lookup(torch.randint(1024, (1, height, width), generator=generator()))
    picture = demo.decode(latents, seamless=True)
    shifted = demo.decode(latents.roll((1, 3), (2, 3)), seamless=True)
    assert torch.allclose(picture.roll((8, 24), (2, 3)), shifted, atol=1e-4)
    assert not torch.allclose(picture, demo.decode(latents), atol=0.1)
    # of the same weights, and none of its own
    assert demo.state_dict().keys() == load("demo", WEIGHTS).state_dict().keys()


def test_latents_stay_in_their_codes_range_unless_they_need_not(demo):
    outside = {}
    for clamp in (True, False):
        drawer = drawer_of(demo, clamp=clamp)
        with torch.no_grad():
            drawer.latents["z"].mul_(50)
            drawer.project()
            latents = drawer.latents["z"]
            outside[clamp] = ((latents < demo.low) | (latents > demo.high)).any().item()
    assert outside == {True: False, False: True}


def drawer_of(demo, **options):
    latents = demo.lookup(torch.randint(1024, (1, 4, 6), generator=generator()))
    return VqganLatents(demo, latents, Options.model_validate(options), RoundRobin())


def test_latents_at_half_the_scale_are_held_to_the_start_likewise(demo):
    for method in ("square", "angle"):
        drawer = drawer_of(demo, init_method=method, init_weight=1)
        drawer.set_resolution(0.5)
        assert tuple(drawer.render().shape) == (1, 3, 16, 24)
        distance = drawer.from_start() if method == "square" else drawer.latent_loss(1)
        assert distance.item() < 1e-6
        with torch.no_grad():
            drawer.latents["z"].add_(0.5)
        assert (drawer.from_start() if method == "square" else drawer.latent_loss(1)).item() > 1e-3
        drawer.init_from(torch.rand(1, 3, 32, 48, generator=generator()))
        assert tuple(drawer.render().shape) == (1, 3, 16, 24)
        drawer.set_resolution(1)
        assert tuple(drawer.render().shape) == (1, 3, 32, 48)


@pytest.mark.parametrize("name", ["gray", "latent_decay"])
def test_what_pulls_latents_to_zero_pulls_less_and_less(demo, name):
    options = (
        {"init_method": "gray", "init_weight": 2}
        if name == "gray"
        else {"latent_decay": 2, "latent_decay_drop": 0.7, "latent_decay_every": 2}
    )
    drawer = drawer_of(demo, **options)
    square = drawer.latents["z"].pow(2).mean().item()
    weights = [drawer.latent_loss(index).item() / square for index in range(1, 8)]
    if name == "gray":
        assert weights == pytest.approx([1 / (2 * i + 1) for i in range(7)], rel=1e-4)
    else:
        assert weights == pytest.approx([1, 1, 0.65, 0.65, 0.3, 0.3, 0], abs=1e-4)
        falls = [i for i in range(1, 12) if Options.model_validate(options).latent_decay_falls(i)]
        assert falls == [3, 5, 7]  # at zero there is nothing left to fall


@pytest.mark.parametrize("cutouts", [random_crops, random_views])
@pytest.mark.parametrize(("height", "width"), [(40, 64), (200, 140), (16, 300)])
def test_cutouts_are_squares_in_range_and_the_same_of_every_picture(cutouts, height, width):
    image = torch.rand(1, 3, height, width, generator=generator())
    views = cutouts(torch.cat([image, image]), 5, 32, generator())
    assert tuple(views.shape) == (2, 5, 3, 32, 32)
    assert views.min() >= 0
    assert views.max() <= 1
    assert torch.allclose(views[0], views[1], atol=1e-6)
    assert torch.equal(views, cutouts(torch.cat([image, image]), 5, 32, generator()))
    assert not torch.equal(views, cutouts(torch.cat([image, image]), 5, 32, generator(1)))


def test_whole_views_show_a_picture_of_any_shape_undistorted():
    """A centered square stays as high as wide in views of a picture twice as wide as high."""
    image = torch.ones(1, 3, 50, 100)
    image[:, :, 15:35, 40:60] = 0
    views = random_views(image, 16, 64, generator(), whole=1.0, noise=0)[0].mean(1)  # (16, 64, 64)
    dark = views < 0.4
    heights, widths = dark.any(2).sum(1), dark.any(1).sum(1)
    assert (heights - widths).abs().max() <= 3
    assert heights.min() > 0


def test_gradients_of_the_clamp_lead_inwards_only():
    images = torch.tensor([-0.5, 0.5, 1.5], requires_grad=True)
    for sign, expected in ((1.0, [0.0, 1.0, 1.0]), (-1.0, [-1.0, -1.0, 0.0])):
        (gradient,) = torch.autograd.grad((clamp_to_range(images) * sign).sum(), images)
        assert expected == gradient.tolist()


def test_the_straight_through_value_has_the_others_gradient():
    value, other = torch.tensor([1.0]), torch.tensor([5.0], requires_grad=True)
    result = straight_through(value, other)
    (gradient,) = torch.autograd.grad(result * 3, other)
    assert (result.item(), gradient.item()) == (1.0, 3.0)


def test_the_spherical_distance_is_half_the_squared_angle():
    a, b = nn.functional.normalize(torch.randn(2, 7, 30, generator=generator()), dim=-1)
    angle = torch.arccos((a * b).sum(-1))
    assert torch.allclose(angle**2 / 2, spherical_distance(a, b), atol=1e-5)
