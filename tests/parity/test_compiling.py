"""Networks are compiled in a warm-up, for its shapes; whatever else comes is computed as it was."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from models.company import Alternating
from models.compiling import Compiled
from models.generators.vqgan_clip import VqganClip
from models.networks import NetworkNames, Networks
from workers.settings import WorkerSettings
from workers.warmup import compile_steps


def wave(images: Tensor) -> Tensor:
    return images.sin().mul(2).sum(-1)


def slopes(company: Compiled, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the network makes of pictures, and the gradient of its sum."""
    leaf = images.clone().requires_grad_(True)
    made = company.answer("wave", wave, leaf)
    company.descend(made.sum())
    assert leaf.grad is not None
    return made.detach(), leaf.grad


class Noted:
    """A compiler that changes nothing, and notes what is asked of what it made."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, network):
        def noted(images: Tensor) -> Tensor:
            self.shapes.append(tuple(images.shape))
            return network(images)

        return noted


def drawing_networks(company: Compiled) -> Networks:
    networks = Networks(NetworkNames(device="cpu"), compiled=True)
    networks.__dict__["company"] = company
    return networks


@pytest.mark.timeout(240)  # a compiler runs, on a machine that may be busy
def test_what_torch_compiles_gives_the_same_forth_and_back():
    company = Networks(NetworkNames(device="cpu"), compiled=True).company
    assert isinstance(company, Compiled)
    images = torch.linspace(0, 1, 12).view(1, 3, 2, 2)
    with company.warm_up():
        slopes(company, images)
    assert company.shapes == 1
    made, gradient = slopes(company, images)
    torch.testing.assert_close(made, wave(images))
    torch.testing.assert_close(gradient, 2 * images.cos())


def test_only_shapes_of_the_warm_up_are_compiled():
    noted = Noted()
    company = Compiled(Alternating(), noted)
    small, large = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 4, 4)
    with company.warm_up():
        slopes(company, small)
    slopes(company, large)
    company.answer("wave", wave, small)  # without gradients: a preview
    company.answer("another", wave, small.clone().requires_grad_(True))
    assert len(noted.shapes) == 1
    slopes(company, small)
    assert len(noted.shapes) == 2


def test_a_compiler_that_fails_leaves_drawing_as_it_was():
    def fail(network):
        raise RuntimeError("no compiler here")

    company = Compiled(Alternating(), fail)
    networks = drawing_networks(company)
    compile_steps(networks, {"vqgan_clip": VqganClip(networks)}, ["32x32"])
    assert company.shapes == 0
    made, _ = slopes(company, torch.ones(1, 3, 2, 2))
    torch.testing.assert_close(made, wave(torch.ones(1, 3, 2, 2)))


def test_a_warm_up_meets_the_shapes_of_a_drawing():
    noted = Noted()
    company = Compiled(Alternating(), noted)
    networks = drawing_networks(company)
    compile_steps(networks, {"vqgan_clip": VqganClip(networks)}, ["48x32"])
    assert company.shapes == 3  # of the decoder, forth and back and for a look; of the CLIP
    latents, views = noted.shapes[:2]
    assert latents[2:] == (4, 6)
    assert views[1:] == (3, 128, 128)


@pytest.mark.parametrize("said", ['["0x32"]', '["32"]', '["32x32 "]'])
def test_sizes_that_are_none_are_refused(monkeypatch, said):
    monkeypatch.setenv("CLIPCANVAS_COMPILE_SIZES", said)
    with pytest.raises(ValidationError, match="compile_sizes"):
        WorkerSettings()
