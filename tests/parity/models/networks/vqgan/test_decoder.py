"""Our way through taming's decoder is taming's own, within rounding; in bf16 it makes the same picture."""

import pytest
import torch

from models.networks.vqgan import VqganConfig, load
from models.networks.vqgan.vqgan_model import Vqgan
from models.weights_io.card import WEIGHTS


def wide() -> Vqgan:
    """Of random weights: two sizes with attention, blocks that change the number of channels."""
    sizes = {"z_channels": 32, "resolution": 32, "ch": 32, "ch_mult": [1, 2, 4], "num_res_blocks": 2}
    config = {"embed_dim": 32, "n_embed": 50, "ddconfig": sizes | {"attn_resolutions": [8, 16]}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vqgan = Vqgan(VqganConfig.model_validate(config), "VQModel")
        for parameter in vqgan.decoder.parameters():  # norms that do nothing would hide much
            parameter.add_(torch.randn_like(parameter) * 0.05)
        vqgan.read({**vqgan.state_dict(), "quantize.embedding.weight": torch.randn(50, 32)})
    return vqgan


@pytest.fixture(scope="module", params=["demo", "wide"])
def vqgan(request: pytest.FixtureRequest) -> Vqgan:
    return load("demo", WEIGHTS) if request.param == "demo" else wide()


def latents_of(vqgan: Vqgan) -> torch.Tensor:
    codes = torch.randint(len(vqgan.codebook), (2, 6, 4), generator=torch.Generator().manual_seed(1))
    return vqgan.lookup(codes).contiguous()


@pytest.mark.parametrize("low_memory", [False, True])
def test_pictures_and_slopes_are_those_of_tamings_decoder(vqgan, low_memory):
    found = []
    for decode in (
        lambda z: vqgan.decode(z, low_memory=low_memory),
        lambda z: vqgan.decoder(vqgan.post_quant_conv(z)).add(1).div(2),
    ):
        latents = latents_of(vqgan).requires_grad_(True)
        pictures = decode(latents)
        (slope,) = torch.autograd.grad(pictures.square().sum(), latents)
        found.append((pictures.detach(), slope))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_halved_it_makes_the_same_picture_to_50_decibels():
    whole, half = load("demo", WEIGHTS), load("demo", WEIGHTS, dtype="bf16")
    latents = latents_of(whole)
    with torch.no_grad():
        pictures, halved = whole.decode(latents), half.decode(latents)
    assert halved.dtype == torch.float32
    assert -10 * (halved - pictures).square().mean().log10() > 50
    assert half.decoder.conv_in.weight.dtype == torch.bfloat16
    assert half.codebook.dtype == half.half_norms.dtype == torch.float32  # what latents are compared with
    assert load("demo", WEIGHTS, dtype="fp16").decoder.conv_in.weight.dtype == torch.float32


def test_no_gradients_of_weights_are_made(vqgan):
    latents = latents_of(vqgan).requires_grad_(True)
    vqgan.decode(latents).sum().backward()
    assert latents.grad is not None
    assert all(parameter.grad is None for parameter in vqgan.parameters())


def test_little_is_kept_for_the_way_back(vqgan):
    """Of each residual block the inputs of its two normalizations, and nothing of its convolutions."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    latents = latents_of(vqgan).requires_grad_(True)
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*vqgan.parameters(), *vqgan.buffers())}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ours = vqgan.decode(latents)
    few = sum(size for place, size in kept.items() if place not in weights)
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        theirs = vqgan.decoder(vqgan.post_quant_conv(latents))
    many = sum(size for place, size in kept.items() if place not in weights)
    assert few < 0.4 * many
    assert ours.shape == theirs.shape
