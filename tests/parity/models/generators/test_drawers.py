"""Each drawer by itself, and all of them with all that a scene asks of them."""

import io

import numpy as np
import pytest
import resvg_py
import torch
from PIL import Image

from models.generators import available, complete, find
from models.generators._rasterizer import POINTS, Strokes, rasterize, svg_of
from models.generators.fft import Waves
from models.generators.lines import StrokeDrawer
from models.generators.pixels import Grid, cells_of
from models.networks.shared_networks import Networks
from models.optimize.drawer import DrawerInit
from models.optimize.motion import Motion
from models.requests.generator import Drawing
from models.requests.network_names import NetworkNames
from models.requests.options import DrawingOptions
from models.requests.prompts import parse
from models.requests.request import InvalidRequest, Presets, Prompt

NAMES = NetworkNames()
DRAWERS = [name for name in available() if issubclass(find(name).Options, DrawingOptions)]
SKETCHES = {"pixels": Grid, "fft": Waves, "lines": StrokeDrawer}
TINY = {"cutouts": 2, "templates": ["{prompt}"]}
OWN = {"pixels": {"columns": 8}, "lines": {"strokes": 5}, "vqgan_clip": {"start": "random"}}

FEATURES = {
    "all kinds of prompts and losses": {
        "smoothness": 1,
        "saturation": 1,
        "symmetry": 1,
        "edge": 1,
        "contrast": 1,
        "init_weight": 1,
        "background": 1,
    },
    "a palette, tiles and a coarse beginning": {
        "palette": ["#000000", "#ff0000", "#ffffff"],
        "palette_only": True,
        "palette_weight": 1,
        "tile": True,
        "coarse": 0.5,
        "optimizer": "adamw",
        "weight_decay": 0.1,
    },
    "a mask and a style": {
        "init_image": "photo",
        "mask": "mask",
        "mask_feather": 3,
        "style": 1,
        "style_image": "photo",
    },
    "motion, overlays and drops": {
        "zoom": 1.1,
        "pan_x": 0.05,
        "rotate": 5,
        "move_every": 2,
        "overlay_image": "photo",
        "overlay_every": 3,
        "overlay_until": 1,
        "start": "perlin",
        "learning_rate_drops": [0.5],
        "optimizer": "sgd",
    },
}


@pytest.fixture(scope="module")
def networks():
    return Networks(NAMES)


@pytest.fixture(scope="module")
def pictures():
    ramp = np.linspace(0, 255, 48 * 64 * 3).astype(np.uint8).reshape(48, 64, 3)
    half = np.zeros((48, 64, 3), np.uint8)
    half[:, 32:] = 255
    return {"photo": Image.fromarray(ramp), "mask": Image.fromarray(half)}


def request_of(generator, prompts="a red heart", *, steps=4, **options):
    given = parse(prompts) if isinstance(prompts, str) else prompts
    filled = TINY | OWN.get(generator, {}) | options
    return complete(
        NAMES, generator=generator, prompts=given, width=64, height=48, steps=steps, seed=3, options=filled
    )


def steps_of(networks, request, pictures, checkpoint=None):
    generator = find(request.generator).load(networks)
    return generator(Drawing(request, seed=3, images=pictures, resume_from=checkpoint))


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("generator", DRAWERS)
def test_every_drawer_draws_with_every_feature_and_goes_on_byte_for_byte(
    networks, pictures, generator, feature
):
    prompts = parse("a red heart")
    if "prompts" in feature:
        vector = tuple(np.linspace(-1, 1, 640))
        prompts = (
            *parse("a cat|blurry:-0.5:-0.9"),
            Prompt(image="photo", begin=0.5),
            Prompt(target="photo", weight=0.5),
            Prompt(vector=vector),
            Prompt(noise=7, weight=0.1),
        )
    request = request_of(generator, prompts, **FEATURES[feature])
    for step in steps_of(networks, request, pictures):
        assert np.isfinite(step.loss())
        if step.index == 2:
            checkpoint = step.checkpoint()
    whole, svg = step.render(), step.svg and step.svg()
    assert whole.shape == (48, 64, 3)
    *_, last = steps_of(networks, request, pictures, checkpoint)
    assert np.array_equal(whole, last.render())
    assert svg == (last.svg and last.svg())
    if "mask" in feature:
        assert np.array_equal(whole[:, :32], np.asarray(pictures["photo"])[:, :32])
    if "palette" in feature:
        assert {tuple(color) for color in whole.reshape(-1, 3)} <= {(0, 0, 0), (255, 0, 0), (255, 255, 255)}


@pytest.mark.parametrize("generator", DRAWERS)
def test_the_pictures_of_one_request_differ(networks, pictures, generator):
    request = request_of(generator, steps=1)
    loaded = find(generator).load(networks)
    drawn = []
    for image in (0, 1):
        *_, last = loaded(Drawing(request, seed=request.seed_of(image), images=pictures))
        drawn.append(last.render())
    assert not np.array_equal(*drawn)


def drawer_of(generator, size=(48, 64), start=None, seed=0, **options):
    rng = torch.Generator().manual_seed(seed)
    made = find(generator).Options(**(OWN.get(generator, {}) | options))
    return SKETCHES[generator](made, DrawerInit(size, start, rng, torch.device("cpu")))


def soft_picture(size=(48, 64)):
    """Three blurred blots of color: (1, 3, H, W)"""
    down, right = (torch.linspace(-1, 1, side) for side in size)
    blots = [(down[:, None] - y) ** 2 + (right - x) ** 2 for y, x in ((-0.5, 0), (0.4, 0.6), (0.3, -0.5))]
    return torch.stack(blots).mul(-3).exp().mul(0.8).add(0.1)[None]


@pytest.mark.parametrize("generator", SKETCHES)
@pytest.mark.parametrize("size", [(48, 64), (33, 47)])
def test_half_a_drawing_is_half_as_large_and_shows_the_same(generator, size):
    start = soft_picture(size) if generator != "lines" else None
    drawer = drawer_of(generator, size, start)
    with torch.no_grad():
        whole = drawer.render()
        drawer.set_resolution(0.5)
        half = drawer.render()
        drawer.set_resolution(1)
        assert torch.equal(whole, drawer.render())
    assert (1, 3, round(size[0] / 2), round(size[1] / 2)) == half.shape
    small = torch.nn.functional.interpolate(whole, size=half.shape[2:], mode="area")
    assert (half - small).abs().mean() < 0.03


@pytest.mark.parametrize("generator", SKETCHES)
def test_a_drawer_knows_how_far_it_is_from_its_start(generator):
    drawer = drawer_of(generator, start=soft_picture())
    assert float(drawer.from_start().detach()) == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        for latents in drawer.latents.values():
            latents.add_(0.1)
    assert float(drawer.from_start().detach()) > 0.001


@pytest.mark.parametrize("size", [(48, 64), (33, 47), (16, 17)])
def test_waves_take_up_a_picture_exactly_and_clamp_what_no_sigmoid_gives(size):
    drawer = drawer_of("fft", size)
    picture = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    drawer.init_from(picture)
    with torch.no_grad():
        assert torch.allclose(drawer.render(), picture.clamp(1 / 512, 511 / 512), atol=1e-4)
        drawer.init_from((picture > 0.5).float())
        assert (drawer.render() - (picture > 0.5).float()).abs().max() < 0.003


def test_waves_of_equal_amplitude_look_the_same_at_every_resolution():
    small, large = drawer_of("fft", (24, 32)), drawer_of("fft", (96, 128))
    picture = soft_picture((24, 32))
    small.init_from(picture)
    with torch.no_grad():
        # frequencies are in cycles per picture: the few that both have are at the same places
        large.latents["spectrum"].zero_()
        spectrum = small.latents["spectrum"] * small._scale[..., None]
        for rows in (slice(0, 11), slice(-11, None)):
            some = spectrum[:, :, rows, :15] / large._scale[rows, :15, None]
            large.latents["spectrum"][:, :, rows, :15] = some
        shown = torch.nn.functional.interpolate(large.render(), size=(24, 32), mode="area")
    assert (shown - small.render()).abs().mean() < 0.02


@pytest.mark.parametrize("grid", ["rect", "hex"])
def test_pixel_art_takes_up_pixel_art_exactly(grid):
    drawer = drawer_of("pixels", grid=grid)
    with torch.no_grad():
        drawer.latents["colors"].uniform_(generator=torch.Generator().manual_seed(2))
        picture = drawer.render()
    other = drawer_of("pixels", grid=grid, seed=5)
    other.init_from(picture)
    with torch.no_grad():
        assert torch.allclose(other.render(), picture, atol=1e-5)
        assert len({tuple(color) for color in picture[0].flatten(1).T.tolist()}) >= 8 * 6  # no blur between


@pytest.mark.parametrize(("size", "cells"), [((60, 64), (6, 8)), ((50, 41), (7, 5))])
def test_each_pixel_is_in_the_hexagon_whose_center_is_nearest(size, cells):
    index = cells_of("hex", cells, size).numpy()
    down, right = (np.arange(side) + 0.5 for side in size)
    centers = [
        ((row + 0.5) * size[0] / cells[0], (column + (0.5 if row % 2 == 0 else 0)) * size[1] / cells[1])
        for row in range(-1, cells[0] + 1)
        for column in range(-1, cells[1] + 2)
    ]
    # in widths and heights of a regular hexagon
    across, along = cells[1] / size[1], np.sqrt(0.75) * cells[0] / size[0]
    distances = np.stack(
        [((down[:, None] - y) * along) ** 2 + ((right - x) * across) ** 2 for y, x in centers]
    )
    nearest = distances.argmin(0)
    is_clear = np.diff(np.sort(distances, 0)[:2], axis=0)[0] > 1e-9
    pairs = set(zip(index[is_clear].tolist(), nearest[is_clear].tolist(), strict=True))
    assert len(pairs) == len({cell for cell, _ in pairs}) == len({center for _, center in pairs})


def test_pixel_art_has_square_cells_unless_rows_are_given_and_none_below_a_pixel():
    wide = cells_of("rect", (3, 8), (48, 128))
    assert int(wide.max()) + 1 == 24
    assert torch.equal(wide, drawer_of("pixels", (48, 128))._cells[1.0])
    with pytest.raises(InvalidRequest, match="65 columns") as refused:
        request_of("pixels", columns=65)
    assert refused.value.pointer == "/options/columns"


@pytest.mark.parametrize("generator", SKETCHES)
def test_a_drawer_of_its_own_has_no_preset_of_another_program(generator):
    with pytest.raises(InvalidRequest):
        find(generator).profile(NAMES, Presets(compat="crowson"))
    wide = find(generator).profile(NAMES, Presets(aspect="widescreen", quality="draft"))
    assert wide.width / wide.height == pytest.approx(16 / 9, rel=0.02)


def strokes_of(kind, number, seed=0, **changes):
    rng = torch.Generator().manual_seed(seed)
    points = torch.rand(number, 1, 2, generator=rng) * 1.6 - 0.8
    values = {
        "points": points + 0.25 * torch.randn(number, POINTS[kind], 2, generator=rng),
        "widths": 0.02 + 0.08 * torch.rand(number, generator=rng),
        "colors": torch.rand(number, 3, generator=rng),
        "opacities": 0.3 + 0.7 * torch.rand(number, generator=rng),
    }
    return Strokes(kind, **values | changes)


@pytest.mark.parametrize("kind", POINTS)
def test_the_svg_shows_what_the_strokes_show(kind):
    """Against resvg. At edges the two differ: ours covers a pixel by how near its center is to the edge."""
    strokes, size = strokes_of(kind, 20), (160, 200)
    ours = rasterize(strokes, torch.tensor([1.0, 0.9, 0.8]), size)[0].permute(1, 2, 0)
    png = resvg_py.svg_to_bytes(svg_string=svg_of(strokes, "#ffe6cc", size))
    theirs = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB")) / 255
    psnr = -10 * np.log10(np.square(ours.numpy() - theirs).mean())
    assert psnr > 33


def test_the_strokes_of_a_drawing_are_in_its_svg(networks, pictures):
    *_, last = steps_of(networks, request_of("lines", stroke_kind="shape", paper="#204060"), pictures)
    png = resvg_py.svg_to_bytes(svg_string=last.svg())
    theirs = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB")).astype(float)
    assert theirs.shape == (48, 64, 3)
    assert 10 * np.log10(255**2 / np.square(theirs - last.render()).mean()) > 28
    assert last.svg().count("<path") == 5


@pytest.mark.parametrize("kind", POINTS)
def test_strokes_learn_where_to_be_how_wide_and_in_which_color(kind):
    size, paper = (40, 52), torch.ones(3)
    wanted = rasterize(strokes_of(kind, 1, seed=4), paper, size)
    near = strokes_of(kind, 1, seed=4)
    given = {
        "points": near.points + 0.1,
        "widths": near.widths * 0.5,
        "colors": 1 - near.colors,
        "opacities": near.opacities * 0 + 0.5,
    }
    given = {name: value.clone().requires_grad_(True) for name, value in given.items()}
    optimizer = torch.optim.Adam(given.values(), lr=0.02)
    distances = []
    for _ in range(60):
        distance = (rasterize(Strokes(kind, **given), paper, size) - wanted).square().mean()
        optimizer.zero_grad()
        distance.backward()
        assert all(value.grad.abs().sum() > 0 for value in given.values())
        optimizer.step()
        distances.append(float(distance.detach()))
    assert distances[-1] < distances[0] / 5


def test_many_strokes_keep_little_for_the_way_back():
    """128 strokes on 256x256. With all that a stroke's pixels pass through, it would be a gigabyte."""
    strokes = strokes_of("curve", 128)
    strokes.points.requires_grad_(True)
    kept = []

    def keep(tensor):
        kept.append(tensor.untyped_storage())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        image = rasterize(strokes, torch.ones(3), (256, 256))
    assert image.requires_grad
    assert sum({storage.data_ptr(): storage.nbytes() for storage in kept}.values()) < 64 * 2**20


def test_strokes_move_with_the_picture_and_come_back_when_they_leave():
    drawer = drawer_of("lines")
    with torch.no_grad():
        drawer.latents["points"].mul_(0.4)
    before = {name: latents.detach().clone() for name, latents in drawer.latents.items()}
    drawer.move(Motion(zoom=1.5, pan=(0.1, 0.0), turn=0.0))
    expected = before["points"] * 1.5 + torch.tensor([0.2, 0.0])
    assert torch.allclose(drawer.latents["points"].detach(), expected, atol=1e-6)
    assert torch.allclose(drawer.latents["widths"].detach(), before["widths"] * 1.5)
    for _ in range(20):
        drawer.move(Motion(zoom=1.3, pan=(0.2, 0.1), turn=0.3))
    assert drawer.latents["points"].detach().mean(1).abs().max() <= 1.2


def test_strokes_take_up_a_picture_as_nearly_as_they_can():
    picture = soft_picture()
    fresh, told = drawer_of("lines", strokes=24), drawer_of("lines", strokes=24, start=picture)
    with torch.no_grad():
        far, near = ((drawer.render() - picture).square().mean() for drawer in (fresh, told))
    assert near < far / 3
