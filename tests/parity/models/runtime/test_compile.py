"""Networks are compiled in a warm-up, for its shapes; whatever else comes is computed as it was."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from models.clip import use_cores
from models.clip.encoder import OpenClipEncoder
from models.generators import _vqgan_latents, complete
from models.networks.shared_networks import Networks
from models.requests.generator import Drawing
from models.requests.network_names import NetworkNames
from models.requests.options import CutoutMethod
from models.requests.prompts import parse
from models.runtime.batched_steps import Batched, RoundRobin
from models.runtime.compile import Compiled, Padded
from models.weights_io.card import WEIGHTS
from tests.support.weights.wild import CLIP, write_hub_folder
from workers.drawing.precompile import compile_steps
from workers.settings import WorkerSettings


def wave(images: Tensor) -> Tensor:
    return images.sin().mul(2).sum(-1)


def slopes(scheduler: Compiled, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the network makes of pictures, and the gradient of its sum."""
    leaf = images.clone().requires_grad_(True)
    made = scheduler.forward("wave", wave, leaf)
    scheduler.backward(made.sum())
    assert leaf.grad is not None
    return made.detach(), leaf.grad


class Noted:
    """A compiler that changes nothing, and notes what is asked of what it made."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, function, *examples):
        def noted(*tensors: Tensor) -> Tensor:
            self.shapes.append(tuple(tensors[0].shape))
            return function(*tensors)

        return noted


def drawing_networks(scheduler: Compiled) -> Networks:
    networks = Networks(NetworkNames(device="cpu"), compiled=True)
    networks.__dict__["scheduler"] = scheduler
    return networks


@pytest.mark.timeout(240)  # a compiler runs, on a machine that may be busy
def test_what_torch_compiles_gives_the_same_forth_and_back():
    scheduler = Networks(NetworkNames(device="cpu"), compiled=True).scheduler
    assert isinstance(scheduler, Compiled)
    images = torch.linspace(0, 1, 12).view(1, 3, 2, 2)
    with scheduler.warm_up():
        slopes(scheduler, images)
    assert scheduler.shapes == 1
    made, gradient = slopes(scheduler, images)
    torch.testing.assert_close(made, wave(images))
    torch.testing.assert_close(gradient, 2 * images.cos())


def test_only_shapes_of_the_warm_up_are_compiled():
    noted = Noted()
    scheduler = Compiled(RoundRobin(), noted)
    small, large = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 4, 4)
    with scheduler.warm_up():
        slopes(scheduler, small)
    slopes(scheduler, large)
    scheduler.forward("wave", wave, small)  # without gradients: a preview
    scheduler.forward("another", wave, small.clone().requires_grad_(True))
    assert len(noted.shapes) == 1
    slopes(scheduler, small)
    assert len(noted.shapes) == 2


def test_passes_that_drawings_share_are_compiled_for_each_number_of_them():
    noted = Noted()
    scheduler = Compiled(Batched(patience_s=10), noted, most=2)
    images = torch.rand(1, 3, 2, 2)
    with scheduler.warm_up():
        slopes(scheduler, images)
    assert scheduler.shapes == 2
    together = threading.Barrier(2)

    def step(number: int) -> tuple[Tensor, Tensor]:
        with scheduler.session():
            together.wait(10)
            with scheduler.step():
                return slopes(scheduler, images + number)

    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(step, range(2)))
    assert noted.shapes[1:] == [(2, 3, 2, 2)], "after the warm-up"
    for number, (made, gradient) in enumerate(answers):
        torch.testing.assert_close(made, wave(images + number))
        torch.testing.assert_close(gradient, 2 * (images + number).cos())


def test_a_compiler_that_fails_leaves_drawing_as_it_was():
    def fail(function, *examples):
        raise RuntimeError("no compiler here")

    scheduler = Compiled(RoundRobin(), fail)
    networks = drawing_networks(scheduler)
    compile_steps(networks, {"vqgan_clip": partial(_vqgan_latents.generate, networks)}, ["32x32"])
    assert scheduler.shapes == 0
    made, _ = slopes(scheduler, torch.ones(1, 3, 2, 2))
    torch.testing.assert_close(made, wave(torch.ones(1, 3, 2, 2)))


def test_a_warm_up_meets_the_shapes_of_a_drawing():
    noted = Noted()
    scheduler = Compiled(RoundRobin(), noted)
    networks = drawing_networks(scheduler)
    compile_steps(networks, {"vqgan_clip": partial(_vqgan_latents.generate, networks)}, ["48x32"])
    assert scheduler.shapes == 8  # as above
    codes, latents, views, seen = noted.shapes[:4]
    assert codes[2:] == latents[2:] == (4, 6)
    assert views == (1, 3, 32, 48)
    assert seen[1:] == (3, 128, 128)


def traced(function, *examples):
    """In one piece, as a compiler would see it, and computed by torch itself."""
    made = torch.compile(function, fullgraph=True, dynamic=False, backend="aot_eager")
    made(*examples)
    return made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", get_args(CutoutMethod))
def test_all_parts_of_a_step_are_of_one_piece_and_give_what_they_gave(method):
    looks = {"smoothness": 1, "saturation": 1, "symmetry": 1, "edge": 1, "background": 1}
    palette = {"palette": ["#ff0000", "#00ff00"], "palette_weight": 1}
    losses = []
    for scheduler in (RoundRobin(), Compiled(RoundRobin(), traced)):
        networks = drawing_networks(scheduler)
        request = complete(
            networks.names,
            generator="vqgan_clip",
            prompts=parse("a red house | a cat:-0.5"),
            width=32,
            height=32,
            steps=3,
            seed=0,
            options={"cutouts": 2, "cutout_method": method, "start": "random", **looks, **palette},
        )
        generator = partial(_vqgan_latents.generate, networks)
        with scheduler.warm_up() if isinstance(scheduler, Compiled) else nullcontext():
            for step in generator(Drawing(request, seed=0)):
                step.render()
        losses.append([step.loss() for step in generator(Drawing(request, seed=0))])
    assert scheduler.shapes == len(
        ["decoder", "a look", "codes", "views", "CLIP", "prompts", "looks", "latents"]
    )
    np.testing.assert_allclose(*losses, rtol=1e-4)


class Counter(TorchDispatchMode):
    """Counts operations, those within parts of a step apart."""

    def __init__(self) -> None:
        super().__init__()
        self.counts, self.part = {"in parts": 0, "beside": 0}, "beside"

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[self.part] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def within(self):
        self.part = "in parts"
        with torch.enable_grad():
            yield
        self.part = "beside"

    def prepare(self, function, *examples):
        def counted(*tensors: Tensor) -> Tensor:
            return CountedPart.apply(self, function, *tensors)

        return counted


class CountedPart(torch.autograd.Function):
    """A function, forth and back."""

    @staticmethod
    def forward(ctx, counter, function, first, *others):
        with counter.within():
            ctx.first = first.detach().requires_grad_(first.requires_grad)
            ctx.made, ctx.counter, ctx.others = function(ctx.first, *others), counter, others
        return ctx.made.detach()

    @staticmethod
    def backward(ctx, slopes):
        with ctx.counter.within():
            (gradient,) = torch.autograd.grad(ctx.made, ctx.first, slopes)
        return None, None, gradient, *(None for _ in ctx.others)


def test_nearly_all_operations_of_a_step_are_in_parts():
    counter = Counter()
    scheduler = Compiled(RoundRobin(), counter.prepare)
    networks = drawing_networks(scheduler)
    request = complete(
        networks.names,
        generator="vqgan_clip",
        prompts=parse("a house"),
        width=32,
        height=32,
        steps=4,
        seed=0,
        options={"start": "random"},
    )
    with scheduler.warm_up():
        steps = _vqgan_latents.generate(networks, Drawing(request, seed=0))
        next(steps)
    next(steps)
    with counter:
        next(steps)
    assert counter.counts["in parts"] > 1000
    assert counter.counts["beside"] < 130


@pytest.mark.parametrize("said", ['["0x32"]', '["32"]', '["32x32 "]'])
def test_sizes_that_are_none_are_refused(monkeypatch, said):
    monkeypatch.setenv("CLIPCANVAS_COMPILE_SIZES", said)
    with pytest.raises(ValidationError, match="compile_sizes"):
        WorkerSettings()


def total(batch: Tensor) -> Tensor:
    return batch.float().sum(-1)


def test_batches_are_padded_to_the_next_shape_and_larger_ones_computed_as_they_are():
    noted, padded = Noted(), Padded(total)
    padded.compile([torch.zeros(4, 8), torch.zeros(2, 8), torch.zeros(4, 5)], noted)
    for rows, width in ((1, 3), (2, 8), (3, 5), (3, 6), (4, 8), (5, 2), (1, 9)):
        batch = torch.rand(rows, width)
        torch.testing.assert_close(padded(batch), total(batch))
    assert noted.shapes == [(2, 8), (2, 8), (4, 5), (4, 8), (4, 8)]


def test_if_one_shape_cannot_be_compiled_none_is():
    def fail(network, example):
        if len(example) == 4:
            raise RuntimeError("no compiler here")
        return lambda batch: batch * torch.nan

    padded = Padded(total)
    with pytest.raises(RuntimeError):
        padded.compile([torch.zeros(2, 8), torch.zeros(4, 8)], fail)
    assert torch.equal(padded(torch.ones(2, 8)), total(torch.ones(2, 8)))


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "config",
    [CLIP | {"text_cfg": CLIP["text_cfg"] | {"context_length": 40}}, CLIP | {"custom_text": True}],
    ids=["clip", "custom-text"],
)
def test_a_compiled_clip_serves_the_same_embeddings(tmp_path, config):
    write_hub_folder(tmp_path, config)
    name = f"local-dir:{tmp_path}"
    plain, compiled = (OpenClipEncoder.load(name, WEIGHTS, "cpu") for _ in range(2))
    compiled.compile([2], graphs=True)  # of which there are none on a CPU
    counters["stats"].clear()
    side = plain.image_size
    pixels = torch.randint(256, (5, 3, side, side), dtype=torch.uint8).numpy()
    longest = "fox " * (plain.context_length - 2)
    texts = ["a fox", longest, "", "a photo of a fox in the snow", "a cat"]
    for count in (1, 2, 3):
        for threads in (1, 2):
            use_cores(threads)  # which torch would compile anew for
            for one, other in (
                (plain.encode_images(pixels[:count]), compiled.encode_images(pixels[:count])),
                (plain.encode_texts(texts[:count]), compiled.encode_texts(texts[:count])),
                (plain.encode_texts(texts[-count:]), compiled.encode_texts(texts[-count:])),
            ):
                np.testing.assert_allclose(one, other, atol=1e-5)
    assert not counters["stats"], "nothing is compiled while somebody waits"


def test_if_one_tower_cannot_be_compiled_neither_is(tmp_path):
    def fail(network, example):
        if example.dtype == torch.long:
            raise RuntimeError("no compiler here")
        return lambda batch: batch * torch.nan

    write_hub_folder(tmp_path)
    clip = OpenClipEncoder.load(f"local-dir:{tmp_path}", WEIGHTS, "cpu")
    with pytest.raises(RuntimeError, match="no compiler"):
        clip.network.compile([2], fail)
    assert np.isfinite(clip.encode_images(np.zeros((1, 3, clip.image_size, clip.image_size), np.uint8))).all()
