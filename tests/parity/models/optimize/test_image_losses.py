"""What a picture is asked to be by itself: losses and style, palette and tiles, and starts made of chance."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models.generators import complete, find
from models.networks.shared_networks import Networks
from models.optimize.image_losses import (
    ImageLosses,
    asymmetry,
    colorfulness,
    colors_of,
    in_palette,
    nearest_colors,
    off_margins,
    off_palette,
    smoothness,
)
from models.optimize.init_image import random_image
from models.optimize.objective import _rolled
from models.optimize.prompt_targets import to_tensor
from models.optimize.style_loss import Style
from models.requests.generator import Drawing, GenerationError
from models.requests.network_names import NetworkNames
from models.requests.options import DrawingOptions
from models.requests.prompts import parse

CPU = torch.device("cpu")
PALETTE = ["#e02020", "#2040c0", "#f0f0e0"]


@pytest.fixture(scope="module")
def networks():
    return Networks(NetworkNames())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def stripes():
    """Blue and white, across."""
    rows = np.where((np.arange(64) // 4 % 2)[:, None, None], [250, 250, 250], [20, 60, 200])
    return Image.fromarray(np.broadcast_to(rows, (64, 64, 3)).astype(np.uint8))


def drawn(networks, generator="pixels", steps=8, size=(32, 32), **options):
    """The last picture: (1, 3, H, W) in [0, 1]"""
    small = {"cutouts": 2, "learning_rate": 0.1, "learning_rate_end": 1, "smoothness": 0, "contrast": 0}
    if generator == "pixels":
        small |= {"rows": 16, "columns": 16}
    request = complete(
        NetworkNames(),
        generator=generator,
        prompts=parse("a red heart"),
        **{"width": size[1], "height": size[0], "steps": steps, "seed": 3},
        options=small | options,
    )
    *_, last = find(generator).load(networks)(Drawing(request, seed=3, images={"stripes": stripes()}))
    return to_tensor(Image.fromarray(last.render()), size, CPU)


# losses


def test_colorfulness_is_that_of_its_authors():
    image = torch.rand(1, 3, 9, 7, generator=generator())
    red, green, blue = image[0].double().numpy()
    rg, yb = red - green, (red + green) / 2 - blue
    expected = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    assert colorfulness(image).item() == pytest.approx(expected, abs=1e-5)
    gray = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(colorfulness(gray), gray)
    assert gradient.isfinite().all()


def test_a_picture_is_symmetric_when_its_mirror_image_is_the_same():
    half = torch.rand(1, 3, 5, 4, generator=generator())
    assert asymmetry(torch.cat([half, half.flip(-1)], -1)) == 0
    assert asymmetry(torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)) == 1


def test_distances_from_a_palette_are_those_of_its_nearest_colors():
    palette = colors_of(PALETTE, CPU)
    image = torch.rand(1, 3, 6, 5, generator=generator())
    distances = torch.cdist(image[0].flatten(1).T, palette)
    assert off_palette(image, palette).item() == pytest.approx(distances.amin(1).mean().item(), abs=1e-6)
    expected = palette[distances.argmin(1)].T.view(1, 3, 6, 5)
    assert torch.equal(expected, nearest_colors(image, palette))


@pytest.mark.parametrize(("height", "width"), [(32, 48), (8, 8), (40, 33)])
def test_the_margins_alone_are_held_to_their_color(height, width):
    image, color = torch.ones(1, 3, height, width), torch.ones(1, 3)
    margin = max(1, min(height, width) // 16)
    image[..., margin:-margin, margin:-margin] = 0.2
    assert off_margins(image, color) == 0
    assert off_margins(1 - image, color) == 1


def test_a_picture_that_wraps_is_smooth_only_if_its_ends_meet():
    ramp = torch.linspace(0, 1, 11).expand(1, 3, 11, 11)
    assert smoothness(ramp).item() == pytest.approx(0.1)
    assert smoothness(ramp, wraps=True).item() == pytest.approx((10 * 0.1 + 1) / 11)


def test_a_weight_of_zero_asks_for_nothing():
    assert ImageLosses.of(DrawingOptions(palette=PALETTE)) is None
    assert ImageLosses.of(DrawingOptions(background=1, zoom=1.1)) is None


@pytest.mark.parametrize(
    ("options", "measure", "sign"),
    [
        ({"saturation": 2}, colorfulness, 1),
        ({"saturation": -2}, colorfulness, -1),
        ({"symmetry": 20}, asymmetry, -1),
        ({"smoothness": 20}, smoothness, -1),
        (
            {"edge": 5, "edge_color": "#204080"},
            lambda i: off_margins(i, colors_of(["#204080"], CPU)),
            -1,
        ),
        ({"palette": PALETTE, "palette_weight": 3}, lambda i: off_palette(i, colors_of(PALETTE, CPU)), -1),
        (
            {"style": 1, "style_image": "stripes"},
            lambda i: (i.mean((2, 3)) - torch.tensor([0.5, 0.6, 0.9])).norm(),
            -1,
        ),
    ],
)
def test_each_loss_makes_a_drawing_more_of_what_it_asks(networks, options, measure, sign):
    plain, asked = (drawn(networks, start="pixels", **extra) for extra in ({}, options))
    assert sign * measure(asked) > sign * measure(plain) + 0.02


# style


def test_a_style_is_nearer_to_its_own_texture_than_to_others_of_its_colors(networks):
    """Shifted stripes are of the same style; the same pixels in another order are not."""
    picture = to_tensor(stripes(), (64, 64), CPU)
    style = Style(networks.vqgan().encoder, picture)
    shuffled = picture.flatten(2)[..., torch.randperm(64 * 64, generator=generator())].view_as(picture)
    turned = picture.transpose(2, 3)
    with torch.no_grad():
        assert style(picture) == 0
        assert style(picture.roll(8, 2)) < 0.05 * style(turned) < style(shuffled)


def test_a_picture_of_one_color_is_a_style(networks):
    plain, other = torch.ones(1, 3, 64, 64), torch.rand(1, 3, 64, 64, generator=generator())
    style = Style(networks.vqgan().encoder, plain)
    other.requires_grad_(True)
    loss = style(other)
    loss.backward()
    assert style(plain) == 0
    assert loss > 0
    assert loss.isfinite()
    assert other.grad.isfinite().all()


def test_a_style_needs_an_encoder_and_says_so():
    with pytest.raises(GenerationError, match="no encoder"):
        Style(None, torch.zeros(1, 3, 16, 16))


# filters


def test_a_drawing_shows_its_palette_only_and_still_learns(networks):
    options = {"palette": PALETTE, "palette_only": True}
    first, last = drawn(networks, steps=1, **options), drawn(networks, **options)
    allowed = {tuple(color.tolist()) for color in colors_of(PALETTE, CPU)}
    for picture in (first, last):
        assert {tuple(color.tolist()) for color in picture[0].flatten(1).T} <= allowed
    assert not torch.equal(first, last)


def test_gradients_pass_the_palette_unchanged():
    image = torch.rand(1, 3, 4, 4, generator=generator(), requires_grad=True)
    weights = torch.rand(1, 3, 4, 4, generator=generator(1))
    (gradient,) = torch.autograd.grad((in_palette(image, colors_of(PALETTE, CPU)) * weights).sum(), image)
    assert torch.equal(weights, gradient)


def seam(image):
    """How much larger differences are across the wrapped edges than where codes meet inside."""
    ratios = []
    for axis in (2, 3):
        steps = (image - image.roll(1, axis)).abs().mean((0, 1, 5 - axis))
        ratios.append(float(steps[0] / steps[8::8].mean()))
    return max(ratios)


def test_a_tile_has_no_seam(networks):
    options = {"start": "random", "background": 0, "cutouts": 4}
    loose, tiled = (
        drawn(networks, "vqgan_clip", 4, (96, 96), tile=tile, **options) for tile in (False, True)
    )
    assert seam(tiled) < 1.75
    assert seam(loose) > 1.5 * seam(tiled)


def test_rolling_shows_every_place_and_loses_none():
    image = torch.arange(48.0).view(1, 3, 4, 4)
    chance, seen = generator(), set()
    for _ in range(200):
        shifted = _rolled(image, chance)
        assert shifted.flatten().sort().values.tolist() == image.flatten().tolist()
        seen.add(shifted[0, 0, 0, 0].item())
    assert seen == set(image[0, 0].flatten().tolist())


# starts


@pytest.mark.parametrize("kind", ["pixels", "gradient", "perlin"])
def test_chance_makes_the_same_picture_of_the_same_seed(kind):
    one = random_image(kind, (40, 56), generator(1))
    assert tuple(one.shape) == (1, 3, 40, 56)
    assert one.min() >= 0
    assert one.max() <= 1
    assert torch.equal(one, random_image(kind, (40, 56), generator(1)))
    assert (one - random_image(kind, (40, 56), generator(2))).abs().mean() > 0.05


def test_noise_is_rough_perlin_noise_soft_and_a_ramp_straight():
    noise, ramp, perlin = (
        random_image(kind, (64, 64), generator(4)) for kind in ("pixels", "gradient", "perlin")
    )
    assert smoothness(noise) > 4 * smoothness(perlin) > 4 * smoothness(ramp)
    assert perlin.std() > 0.15
    for axis in (2, 3):
        assert ramp.diff(dim=axis).diff(dim=axis).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["pixels", "gradient", "perlin"])
def test_drawings_begin_with_the_picture_of_their_start(networks, kind):
    started = drawn(networks, steps=1, start=kind, learning_rate=1e-6)
    picture = random_image(kind, (32, 32), generator(3))
    cells = nn.functional.avg_pool2d(picture, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(cells, started, atol=0.003)
    coded = drawn(networks, "vqgan_clip", 1, start=kind, learning_rate=1e-6)
    blurred, expected = (nn.functional.avg_pool2d(image, 16) for image in (coded, picture))
    assert (blurred - expected).abs().mean() < 0.2


def test_a_drawing_is_held_to_where_it_really_started(networks):
    start = drawn(networks, steps=1, start="perlin", learning_rate=1e-6)
    free, held = (drawn(networks, start="perlin", init_weight=weight) for weight in (0, 1000))
    assert (held - start).abs().mean() < 0.5 * (free - start).abs().mean()
