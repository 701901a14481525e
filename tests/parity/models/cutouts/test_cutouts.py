"""The cutout methods: views of all pictures at once, as kornia's functions make them one by one."""

import pytest
import torch
import torch.nn.functional as F
from kornia import enhance

from benchmarks.drawing import reference
from models.cutouts.augmentations import blot, shade, soften, tint
from models.cutouts.crops import augmented_crops, random_crops
from models.cutouts.cutouts import cutouts_of, near_and_wide_views, pooled_views
from models.requests.options import DrawingOptions

METHODS = {
    "original": random_crops,
    "updated": augmented_crops,
    "pooling": pooled_views,
    "pixray": near_and_wide_views,
}
NOISE = 6 * 0.1  # six standard deviations of the strongest


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(height, width, seed=5):
    """Soft colors, without places where two channels are the same: HSV's gradients have kinks there."""
    grid = torch.rand(1, 3, 8, 8, generator=seeded(seed)) * 0.6 + 0.2
    return F.interpolate(grid, size=(height, width), mode="bicubic").clamp(0.1, 0.9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("height", "width"), [(60, 60), (40, 70), (90, 50)])
@pytest.mark.parametrize("size", [32, 72], ids=["shrink", "grow"])
def test_views_are_those_of_the_plain_reference(method, height, width, size):
    image = picture(height, width)
    for seed in range(3):
        rng, other = seeded(seed), seeded(seed)
        ours = METHODS[method](image, 7, size, rng)[0]
        plain = reference.VIEWS[method](image, size, 7, other, torch.float64)
        assert tuple(ours.shape) == (7, 3, size, size)
        # places are rounded as fp32 where the reference warps by pixels: 1e-6 of a side
        assert torch.allclose(plain, ours, atol=1e-4)
        assert torch.equal(rng.get_state(), other.get_state())


@pytest.mark.parametrize("method", METHODS)
def test_every_picture_of_a_batch_is_shown_in_the_same_views(method):
    options = DrawingOptions(cutouts=5, cutout_method=method)
    images = torch.cat([picture(48, 64), picture(48, 64, seed=6)])
    views = cutouts_of(options, seeded())(images, 32)
    assert tuple(views.shape) == (2, 5, 3, 32, 32)
    for image, seen in zip(images, views, strict=True):
        assert torch.allclose(seen, cutouts_of(options, seeded())(image[None], 32)[0], atol=1e-5)
    assert not torch.allclose(views, cutouts_of(options, seeded(1))(images, 32), atol=0.01)
    assert views.min() > -NOISE
    assert views.max() < 1 + NOISE


@pytest.mark.parametrize("method", METHODS)
def test_one_view_alone_can_be_had_and_gradients_reach_the_picture(method):
    image = picture(40, 56).requires_grad_()
    views = METHODS[method](image, 1, 32, seeded(3))
    (gradient,) = torch.autograd.grad(views.square().sum(), image)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_wide_views_show_all_of_the_picture_in_its_own_shape_on_one_gray():
    image = torch.zeros(1, 3, 40, 80)
    views = near_and_wide_views(image, 10, 64, seeded(2), near=0)[0].mean(1)  # (10, 64, 64)
    smooth = F.avg_pool2d(views[:, None], 5, 1, 2)[:, 0]  # without the noise
    dark = smooth < smooth[:, :1, :1].mean() / 2
    heights, widths = dark.any(2).sum(1), dark.any(1).sum(1)
    assert widths.min() >= 0.7 * 64
    assert heights.max() <= 0.56 * 64
    assert len({int(top) for top in dark.any(2).float().argmax(1)}) > 4  # at heights of their own


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda v, p: soften(v, p.abs()), lambda v, p: enhance.sharpness(v, p.abs())),
        (
            lambda v, p: shade(v, p, torch.ones_like(p)),
            lambda v, p: enhance.adjust_brightness(v, p),
        ),
        (
            lambda v, p: shade(v, torch.zeros_like(p), 1 + p),
            lambda v, p: enhance.adjust_contrast(v, 1 + p),
        ),
        (
            lambda v, p: tint(v, 1 + 2 * p, torch.zeros_like(p)),
            lambda v, p: enhance.adjust_saturation(v, 1 + 2 * p),
        ),
        (
            lambda v, p: tint(v, torch.ones_like(p), p),
            lambda v, p: enhance.adjust_hue(v, p * 2 * torch.pi),
        ),
    ],
    ids=["sharpness", "brightness", "contrast", "saturation", "hue"],
)
def test_colors_change_as_kornia_changes_them(ours, theirs):
    views = torch.rand(1, 6, 3, 20, 24, generator=seeded(), requires_grad=True)
    parameters = torch.tensor([-0.45, -0.2, 0.0, 0.1, 0.3, 0.5])
    mine, other = ours(views, parameters)[0], theirs(views[0], parameters)
    assert torch.allclose(other, mine, atol=2e-6)
    weights = torch.rand(mine.shape, generator=seeded(1))
    gradients = [torch.autograd.grad((shown * weights).sum(), views)[0] for shown in (mine, other)]
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-4)


def test_the_gradient_of_tinted_views_is_that_of_differences():
    views = torch.rand(2, 3, 3, 4, 4, generator=seeded(), dtype=torch.float64, requires_grad=True)
    # a saturation of 9 is clamped nearly everywhere, one of 0 takes all color away
    saturation, hue = torch.tensor([[9.0, 1.0, 0.0], [0.2, -0.3, 0.1]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda shown: tint(shown, saturation, hue), views)


def test_gray_places_keep_their_gray_and_have_finite_gradients_when_tinted():
    views = torch.cat([torch.zeros(1, 1, 3, 4, 4), torch.ones(1, 1, 3, 4, 4)], 1).requires_grad_()
    tinted = tint(views, torch.tensor([1.3, 0.7]), torch.tensor([0.1, -0.1]))
    assert torch.equal(views, tinted)
    (gradient,) = torch.autograd.grad(tinted.sum(), views)
    assert gradient.isfinite().all()


def test_a_blot_is_black_within_its_box_only():
    views = torch.ones(1, 2, 3, 8, 10)
    shown = blot(views, torch.tensor([2, 1, 5, 4]))
    assert shown.sum() == views.sum() - 2 * 3 * 3 * 3
    assert shown[..., 1:4, 2:5].abs().sum() == 0


@pytest.mark.parametrize("method", ["original", "updated", "pooling", "pixray", "views"])
def test_cutouts_become_fewer_over_the_second_half_of_the_steps(method):
    options = DrawingOptions(cutouts=8, cutouts_end=0.25, cutout_method=method)
    cut = cutouts_of(options, torch.Generator().manual_seed(0))
    counts = [cut(torch.rand(1, 3, 24, 24), 16, done).shape[1] for done in (0.1, 0.5, 0.75, 1.0)]
    assert counts == [8, 8, 5, 2]
    assert DrawingOptions(cutouts=1, cutouts_end=0.01).cutouts_at(1.0) == 1
    assert {DrawingOptions(cutouts=7).cutouts_at(done) for done in (0.0, 0.6, 1.0)} == {7}
