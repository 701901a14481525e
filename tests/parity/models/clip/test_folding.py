"""A CLIP whose batch norms are folded into its convolutions sees what it saw before."""

import copy

import open_clip
import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from models.clip.folding import PaddingConv2d, fold_batch_norms, fold_paddings, keep_clamped


def test_a_residual_tower_without_its_batch_norms_sees_the_same():
    config = {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = open_clip.CLIP(16, config, {"width": 32, "heads": 2, "layers": 1}).visual.eval()
        for norm in tower.modules():
            if isinstance(norm, nn.BatchNorm2d):  # statistics as training leaves them
                norm.running_mean.normal_(0, 0.3)
                norm.running_var.uniform_(0.5, 2)
        images = torch.rand(2, 3, 64, 64)
    before = tower(images)
    count = sum(isinstance(module, nn.BatchNorm2d) for module in tower.modules())
    assert fold_batch_norms(tower, images[:1]) == count > 10
    assert not any(isinstance(module, nn.BatchNorm2d) for module in tower.modules())
    assert (tower(images) - before).abs().max() < 1e-5 * before.abs().max()


class Fork(nn.Module):
    """A batch norm that reads a convolution whose output others read, too."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm, self.other = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, images):
        seen = self.convolution(images)
        return self.norm(seen) + self.other(seen)


def test_a_convolution_that_others_read_keeps_its_weights():
    fork = Fork().eval()
    before = copy.deepcopy(fork.state_dict())
    assert fold_batch_norms(fork, torch.rand(1, 3, 8, 8)) == 0
    assert all(torch.equal(value, before[name]) for name, value in fork.state_dict().items())


@pytest.mark.parametrize("side", [15, 16])
@pytest.mark.parametrize("kernel", [2, 3, 5])
def test_a_depthwise_convolution_that_pads_by_itself_sees_the_same(kernel, side):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 1), Conv2dSame(8, 8, kernel, 2, groups=8))
        images = torch.rand(2, 3, side, side)
    network.eval().requires_grad_(False)
    before, slope = seen_and_slope(network, images)
    assert fold_paddings(network, images[:1]) == 1
    assert isinstance(network[1], PaddingConv2d)
    after, slope_after = seen_and_slope(network, images)
    assert torch.equal(before, after)
    assert torch.allclose(slope, slope_after, atol=1e-6)
    halved = seen_and_slope(network.bfloat16(), images.bfloat16())
    for full, half in zip((after, slope_after), halved, strict=True):
        assert half.dtype == torch.bfloat16
        assert torch.allclose(full, half.float(), atol=0.02)


def seen_and_slope(network, images):
    images = images.clone().requires_grad_(True)
    seen = network(images)
    (slope,) = torch.autograd.grad(seen.square().sum(), images)
    return seen.detach(), slope


def test_other_convolutions_keep_their_padding():
    network = nn.Sequential(Conv2dSame(3, 4, 3, 2)).eval()
    assert fold_paddings(network, torch.rand(1, 3, 8, 8)) == 0
    assert isinstance(network[0], Conv2dSame)


def test_a_clamp_goes_back_by_what_it_gave():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU6(inplace=True), nn.Conv2d(8, 4, 1))
        images = torch.randn(2, 3, 16, 16) * 6
    network.eval().requires_grad_(False)
    before, slope = seen_and_slope(network, images)
    assert keep_clamped(network) == 1
    after, new_slope = seen_and_slope(network, images)
    assert torch.equal(after, before)
    assert torch.equal(new_slope, slope)
    assert torch.equal(network(images), before)  # in place, where nothing goes back
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.data_ptr()), lambda _: None
    ):
        network(images.requires_grad_())
    assert len(kept) > len(set(kept)), "the clamp and the layer after it keep the same values"
