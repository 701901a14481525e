"""What surrounds a drawer: what is kept of pictures, what is laid over, how it moves, and resuming it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from models.generators import complete, find
from models.networks.shared_networks import Networks
from models.optimize.drawer import Drawer
from models.optimize.mask import open_share
from models.optimize.motion import Motion
from models.optimize.objective import GuidedObjective
from models.optimize.prompt_targets import to_tensor
from models.requests.generator import Drawing, GenerationError
from models.requests.network_names import NetworkNames
from models.requests.options import DrawingOptions
from models.requests.prompts import parse
from models.requests.request import Prompt

SMALL = {
    "vqgan_clip": {"width": 48, "height": 32, "options": {"cutouts": 2}},
    "pixels": {"width": 32, "height": 32, "options": {"cutouts": 2, "rows": 16, "columns": 16}},
}


def disk(size, box):
    picture = Image.new("RGB", size)
    ImageDraw.Draw(picture).rectangle(box, fill="white")
    return picture


PROMPTS = parse("a red heart")
NOISE = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
PICTURES = {
    "photo": Image.fromarray(NOISE),
    "mask": disk((64, 64), (16, 16, 47, 47)),
    "night": Image.new("RGB", (20, 20), "black"),
    "sky": Image.new("RGB", (20, 20), "#2080e0"),
}


@pytest.fixture(scope="module")
def networks():
    return Networks(NetworkNames())


def request_of(generator="pixels", steps=3, prompts=PROMPTS, **options):
    values = SMALL[generator] | {"options": SMALL[generator]["options"] | options}
    return complete(NetworkNames(), generator=generator, prompts=prompts, seed=5, steps=steps, **values)


def steps_of(networks, request, checkpoint=None):
    loaded = find(request.generator).load(networks)
    return loaded(Drawing(request, seed=5, images=PICTURES, resume_from=checkpoint))


class PixelDrawer(Drawer):
    """The simplest drawer: the image itself, and the methods that were called."""

    def __init__(self, image):
        self.latents, self.calls = {"image": image.clone().requires_grad_()}, []

    def render(self):
        return self.latents["image"]

    def init_from(self, image):
        self.calls.append("init_from")
        self.latents = {"image": image.clone().requires_grad_()}

    def move(self, motion):
        self.calls.append("move")
        self.latents = {"image": motion.warp(self.render()).requires_grad_()}

    def from_start(self):
        return self.render().sum() * 1e6


def objective_of(networks, steps=10, image=None, prompts=PROMPTS, **options):
    """An objective around a drawer, and the drawer."""
    request = request_of(steps=steps, prompts=prompts, **options)
    drawer = PixelDrawer(torch.full((1, 3, 32, 32), 0.25) if image is None else image)
    typed = DrawingOptions.model_validate(
        {k: v for k, v in request.options.items() if k in DrawingOptions.model_fields}
    )
    return GuidedObjective(drawer, Drawing(request, seed=1, images=PICTURES), typed, networks), drawer


# masks


@pytest.mark.parametrize(
    ("generator", "options"),
    [
        ("pixels", {"mask_feather": 3, "palette_only": True, "palette": ["#ff0000", "#00ff00"]}),
        ("pixels", {"zoom": 1.1, "rotate": 5, "coarse": 0.4}),
        ("vqgan_clip", {"mask_feather": 4, "tile": True}),
        ("vqgan_clip", {"coarse": 0.4, "pan_x": 0.1, "overlay_image": "sky", "overlay_every": 1}),
    ],
)
def test_what_a_mask_keeps_is_kept_exactly_in_all_that_is_shown(networks, generator, options):
    request = request_of(generator, init_image="photo", mask="mask", **options)
    shown = [step.render() for step in steps_of(networks, request)]
    size = (request.width, request.height)
    original = np.asarray(PICTURES["photo"].resize(size, Image.Resampling.LANCZOS))
    is_open = np.asarray(PICTURES["mask"].convert("L").resize(size, Image.Resampling.BILINEAR)) > 127
    for picture in shown:
        assert np.array_equal(original[~is_open], picture[~is_open])
    assert (shown[-1][is_open] != original[is_open]).any(1).mean() > 0.5


def test_the_guides_see_what_is_kept_in_its_place(networks):
    """So nothing that is drawn outside the mask changes the loss, or is changed by it."""
    losses = []
    for level in (0.1, 0.9):
        objective, _ = objective_of(networks, init_image="photo", mask="mask")
        image = torch.full((1, 3, 32, 32), level)
        image[..., 8:24, 8:24] = 0.5
        losses.append(objective(image.requires_grad_(), 1))
    (gradient,) = torch.autograd.grad(losses[1], image)
    assert losses[0].item() == losses[1].item()
    moved = gradient[0].abs().sum(0) > 0
    assert moved[8:24, 8:24].float().mean() > 0.9
    assert not moved[:8].any()
    assert not moved[:, 24:].any()


def test_edges_are_soft_inside_the_mask_only():
    mask = disk((30, 30), (5, 5, 24, 24))
    soft, hard = (open_share(mask, (30, 30), feather)[0, 0] for feather in (4, 0))
    assert torch.equal(soft > 0, hard > 0)
    assert soft[15, 4:11].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1])
    assert soft[26 - 4, 15] == pytest.approx(0.6)
    # a mask up to the frame has no border there, and one thinner than its edges is drawn a little
    assert open_share(disk((30, 30), (0, 0, 29, 29)), (30, 30), 4).min() == 1
    assert 0 < open_share(disk((30, 30), (0, 9, 29, 10)), (30, 30), 4).max() < 0.5


def test_the_distance_to_a_border_is_the_euclidean_one():
    is_open = torch.rand(23, 31, generator=torch.Generator().manual_seed(2)) < 0.97
    share = open_share(Image.fromarray(is_open.numpy()), (23, 31), 9)[0, 0]
    closed = (~is_open).nonzero().float()
    places = torch.cartesian_prod(torch.arange(23.0), torch.arange(31.0))
    expected = torch.cdist(places, closed).amin(1).view(23, 31).div(10).clamp(max=1)
    assert torch.allclose(expected, share, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_image": "gone"}, "the image 'gone' is not there"),
        ({"init_image": "photo", "mask": "gone"}, "the image 'gone' is not there"),
        ({"overlay_image": "gone"}, "the image 'gone' is not there"),
        ({"style": 1, "style_image": "gone"}, "the image 'gone' is not there"),
        ({"init_image": "photo", "mask": "night"}, "the mask has no white"),
    ],
)
def test_a_picture_that_does_not_do_fails_and_says_so(networks, options, message):
    with pytest.raises(GenerationError, match=message):
        next(steps_of(networks, request_of(**options)))


# overlays


def test_overlays_are_mixed_in_at_their_steps_and_start_the_optimizer_anew(networks):
    options = {"overlay_image": "sky", "overlay_every": 2, "overlay_opacity": 0.5, "overlay_until": 0.6}
    objective, drawer = objective_of(networks, steps=10, **options)
    restarted = [index for index in range(1, 11) if objective.before_step(index)]
    assert restarted == [3, 5, 7]  # after 2, 4 and 6 of 10 steps
    sky = to_tensor(PICTURES["sky"], (32, 32), torch.device("cpu"))
    assert torch.allclose(sky + (0.25 - sky) * 0.5**3, drawer.render(), atol=1e-6)


# motion


def dot(x, y, size=(60, 90)):
    """A white dot on black, by its place in pixels from the top left."""
    down, right = torch.meshgrid(*(torch.arange(side) + 0.5 for side in size), indexing="ij")
    return torch.exp(-((right - x) ** 2 + (down - y) ** 2) / 8)[None, None].expand(1, 3, -1, -1)


def place(image):
    """Where the light is: x, y, in pixels."""
    light = image[0].mean(0)
    down, right = torch.meshgrid(*(torch.arange(side) + 0.5 for side in light.shape), indexing="ij")
    return [float((light * axis).sum() / light.sum()) for axis in (right, down)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"zoom": 1.5}, (45 + 15, 30 - 15)),  # 10 from the middle are 15 now
        ({"zoom": 0.8}, (45 + 8, 30 - 8)),
        ({"pan_x": 0.1}, (55 + 9, 20)),  # a tenth of the width to the right
        ({"pan_y": 0.25}, (55, 20 + 15)),  # a quarter of the height downwards
        ({"rotate": 90}, (45 + 10, 30 + 10)),  # what was on the upper right is on the lower right
        ({"zoom": 1.2, "rotate": -90, "pan_x": 0.1}, (45 - 12 + 9, 30 - 12)),  # the shift comes last
    ],
)
def test_pictures_move_where_the_options_say(options, expected):
    moved = Motion.of(DrawingOptions(**options)).warp(dot(55, 20))
    assert expected == pytest.approx(place(moved), abs=0.3)


def test_a_move_keeps_shapes_and_fills_what_comes_in_with_mirror_images():
    ramp = torch.linspace(0, 1, 90).expand(1, 3, 60, 90)
    moved = Motion.of(DrawingOptions(pan_x=0.2)).warp(ramp)
    assert torch.allclose(ramp[..., :72], moved[..., 18:], atol=1e-5)
    assert torch.allclose(ramp[..., :18].flip(-1), moved[..., :18], atol=1e-5)
    apart = Motion.of(DrawingOptions(rotate=45)).warp(dot(55, 30) + dot(35, 30))
    along = Motion.of(DrawingOptions(rotate=-45)).warp(apart)
    off = (along - dot(55, 30) - dot(35, 30)).abs()
    assert off[..., 10:-10, 20:-20].max() < 0.1  # the corners were mirrored in


def test_a_vqgans_picture_is_not_washed_out_by_many_moves(networks):
    """Re-encoded twenty times it would be; what the encoder loses is carried along."""
    request = request_of("vqgan_clip", steps=21, pan_x=1e-7, learning_rate=1e-7, cutouts=1)
    shown = [step.render().astype(int) for step in steps_of(networks, request) if step.index in (1, 21)]
    assert np.abs(shown[1] - shown[0]).mean() < 1


def test_a_drawing_moves_at_its_steps_and_the_optimizer_starts_anew(networks):
    objective, drawer = objective_of(networks, zoom=1.01, move_every=3, overlay_image="sky", overlay_every=3)
    assert [index for index in range(1, 11) if objective.before_step(index)] == [4, 7, 10]
    assert drawer.calls == ["move", "init_from", "move", "move"]


def test_what_holds_a_still_drawing_to_its_start_lets_one_go_that_moves(networks):
    still, _ = objective_of(networks, init_weight=1)
    moving, _ = objective_of(networks, init_weight=1, zoom=1.1)
    image = torch.full((1, 3, 32, 32), 0.5)
    assert still(image, 1) > moving(image, 1) + 1e6


def test_a_drawing_comes_to_its_palette_bit_by_bit(networks):
    options = {"palette": ["#000000", "#ff0000"], "palette_only": True, "palette_weight": 100}
    objective, drawer = objective_of(networks, steps=8, **options)
    off = [objective(drawer.render(), index).item() for index in (1, 3, 6, 8)]
    # a distance of 0.43 from black, of which less and less is seen
    assert off[0] == pytest.approx(off[2] + 43.3 * 5 / 6, abs=3)
    assert off[1] == pytest.approx(off[2] + 43.3 / 2, abs=3)
    assert off[3] == pytest.approx(off[2], abs=3)
    assert set(objective.show(drawer.render()).flatten().tolist()) == {0.0}


def test_a_tile_and_its_image_prompt_are_seen_in_the_same_places(networks):
    photo = to_tensor(PICTURES["photo"], (32, 32), torch.device("cpu"))
    prompts = (Prompt(image="photo"),)
    objective, _ = objective_of(
        networks, prompts=prompts, tile=True, edge=0, smoothness=0, cutout_method="original"
    )
    same, other = (objective(image, 1).item() for image in (photo, photo.roll(8, 3)))
    assert same == pytest.approx(0, abs=1e-5)
    assert other > 0.01


# all of it, interrupted


@pytest.mark.parametrize("generator", SMALL)
def test_a_drawing_with_everything_ends_byte_for_byte_after_an_interruption(networks, generator):
    options = {
        **{"init_image": "photo", "mask": "mask", "mask_feather": 2, "coarse": 0.4, "tile": True},
        **{"palette": ["#ff0000", "#00ff00", "#2040ff"], "palette_weight": 0.1, "edge": 1, "symmetry": 1},
        **{"style": 0.1, "style_image": "photo", "saturation": 1, "background": 1, "init_weight": 1},
        **{"overlay_image": "sky", "overlay_every": 2, "overlay_until": 1, "zoom": 1.05, "rotate": 3},
        "move_every": 2,
    }
    request = request_of(generator, steps=5, **options)
    checkpoints, losses = {}, {}
    for step in steps_of(networks, request):
        losses[step.index] = step.loss()
        checkpoints[step.index] = step.checkpoint()
        step.render()
    whole = step.render()
    for index in (1, 3):
        rest = {}
        for step in steps_of(networks, request, checkpoints[index]):
            rest[step.index] = step.loss()
        assert {i: loss for i, loss in losses.items() if i > index} == rest
        assert np.array_equal(whole, step.render())


def test_a_picture_drawn_small_is_shown_and_guided_at_its_full_size(networks):
    objective, _ = objective_of(networks, init_image="photo", mask="mask")
    small = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    shown = objective.show(small)
    large = F.interpolate(small, size=(32, 32), mode="bilinear")
    assert torch.equal(large[..., 10:22, 10:22], shown[..., 10:22, 10:22])
    assert tuple(shown.shape) == (1, 3, 32, 32)
    assert torch.isfinite(objective(small, 1))
