"""How drawings learn: rates, optimizers, restarts, coarse beginnings, early ends; and that nothing waits."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from models.cutouts.cutouts import cutouts_of
from models.generators import available, complete, find
from models.networks.shared_networks import Networks
from models.optimize.drawer import Drawer
from models.optimize.loop import Schedule, optimize
from models.requests.generator import Drawing, GenerationError
from models.requests.network_names import NetworkNames
from models.requests.options import DrawingOptions
from models.requests.prompts import parse
from models.requests.request import GenerationRequest, Prompt
from models.runtime.batched_steps import RoundRobin

SIDE = 16


class PixelDrawer(Drawer):
    """A drawer of pixels, and the sizes that it rendered."""

    def __init__(self, value=0.5):
        self.latents = {"pixels": torch.full((1, 3, SIDE, SIDE), value, requires_grad=True)}
        self.sizes = []

    def render(self):
        if torch.is_grad_enabled():
            self.sizes.append(self.latents["pixels"].shape[-1])
        return self.latents["pixels"]

    def set_resolution(self, share):
        pixels = F.interpolate(self.latents["pixels"].detach(), size=round(SIDE * share), mode="nearest")
        self.latents = {"pixels": pixels.requires_grad_()}


class Ramp:
    """An objective: a ramp of gray with a little noise, or the loss that is given."""

    def __init__(self, loss=None):
        self.rng, self._loss = torch.Generator().manual_seed(1), loss

    def __call__(self, image, index):
        if self._loss is not None:
            return self._loss(image, index)
        ramp = torch.linspace(0, 1, image.shape[-1]) + 1e-4 * torch.rand((), generator=self.rng)
        return (image - ramp).square().mean()

    def show(self, image):
        return F.interpolate(image, size=SIDE, mode="nearest")

    def before_step(self, index):
        return False


def steps_of(steps, checkpoint=None, loss=None, drawer=None, **options):
    options = DrawingOptions.model_validate({"learning_rate": 0.05} | options)
    request = GenerationRequest(
        generator="sheet",
        prompts=(Prompt(text="a ramp"),),
        width=SIDE,
        height=SIDE,
        steps=steps,
        seed=1,
        options=options.model_dump(mode="json"),
    )
    drawing = Drawing(request, seed=1, resume_from=checkpoint)
    return optimize(drawer or PixelDrawer(), Ramp(loss), drawing, options, RoundRobin())


def pixels_after(steps, **options):
    drawer = PixelDrawer()
    list(steps_of(steps, drawer=drawer, **options))
    return drawer.latents["pixels"].detach()


def rates(steps, **options):
    schedule = Schedule(DrawingOptions(learning_rate=0.8, **options), steps)
    return [schedule.rate(index) for index in range(1, steps + 1)]


def test_the_rate_is_held_then_falls_in_a_line_to_its_end():
    assert rates(4) == [0.8] * 4
    expected = [0.8, 0.8, 0.64, 0.48, 0.32, 0.16]
    assert rates(6, learning_rate_hold=1 / 3, learning_rate_end=0.2) == pytest.approx(expected)
    assert rates(1, learning_rate_hold=0, learning_rate_end=0) == [0.8]


def test_the_rate_drops_to_a_tenth_after_each_of_its_shares():
    assert rates(8, learning_rate_drops=(0.5, 0.75)) == pytest.approx([0.8] * 4 + [0.08] * 2 + [0.008] * 2)
    # as pixray has it: 250 steps, of which the last 62 are slow
    assert rates(250, learning_rate_drops=(0.75,)).count(0.8) == 187


@pytest.mark.parametrize(
    ("options", "restarts"),
    [({}, []), ({"learning_rate_drops": (0.5,)}, [4])],
    ids=["goes on", "drops"],
)
def test_sgd_has_momentum_until_the_rate_drops(options, restarts):
    value, memory, target = torch.full((1, 3, SIDE, SIDE), 0.5), 0.0, 0.9

    def ask(image, index):
        return (image - target).square().sum() / 2

    for index in range(1, 7):
        if index in restarts:
            memory = 0.0
        memory = 0.8 * memory + (value - target)
        value = value - (0.01 if options and index > 3 else 0.1) * memory
    drawn = pixels_after(6, loss=ask, optimizer="sgd", momentum=0.8, learning_rate=0.1, **options)
    assert torch.allclose(value, drawn, atol=1e-6)


def test_adamw_pulls_to_zero_and_the_others_do_not():
    def ask(image, index):
        return (image * 0).sum()

    for optimizer, expected in (("adamw", 0.5 * (1 - 0.05 * 2) ** 3), ("adam", 0.5), ("sgd", 0.5)):
        drawn = pixels_after(3, loss=ask, optimizer=optimizer, weight_decay=2)
        assert drawn.mean().item() == pytest.approx(expected, abs=1e-6)


def test_each_name_of_latents_learns_at_its_own_share_of_the_rate():
    latents = {"fast": torch.zeros(2, requires_grad=True), "slow": torch.zeros(2, requires_grad=True)}
    schedule = Schedule(DrawingOptions(learning_rate=0.5, learning_rate_drops=(0.5,)), 4)
    optimizer = schedule.optimizer(latents, {"slow": 0.1})
    schedule.set_rate(optimizer, 1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.05])
    schedule.set_rate(optimizer, 3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.005])


def test_the_first_steps_are_drawn_at_half_the_size_and_kept():
    drawer = PixelDrawer()
    steps = steps_of(10, drawer=drawer, coarse=0.4, learning_rate=0.02)
    shown = {step.index: step.render() for step in steps}
    assert drawer.sizes == [SIDE // 2] * 4 + [SIDE] * 6
    assert {picture.shape for picture in shown.values()} == {(SIDE, SIDE, 3)}
    changes = [abs(shown[i + 1].astype(int) - shown[i]).max() for i in range(1, 10)]
    assert max(changes) <= 12  # nothing jumps where the size changes


RESUMED = {
    "adam": {},
    "sgd": {"optimizer": "sgd"},
    "sgd without momentum": {"optimizer": "sgd", "momentum": 0},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.5, "learning_rate_hold": 0.2, "learning_rate_end": 0},
    "drops": {"learning_rate_drops": (0.3, 0.6)},
    "coarse": {"coarse": 0.5},
    "coarse, drops": {"coarse": 0.3, "learning_rate_drops": (0.3, 0.5), "optimizer": "sgd"},
    "early end": {"stop_after": 4, "learning_rate": 1e-5},
    "coarse, early end": {"coarse": 0.2, "stop_after": 4, "learning_rate": 1e-5},
}


@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED)
def test_a_drawing_goes_on_from_any_step_to_the_same_end(options):
    checkpoints, losses = [], []
    for step in steps_of(32, **options):
        checkpoints.append(step.checkpoint())
        losses.append(step.loss())
    whole = step.render()
    assert step.is_last
    assert (step.index < 32) == ("stop_after" in options)
    for index, checkpoint in enumerate(checkpoints[:-1], 1):
        rest = []
        for step in steps_of(32, checkpoint=checkpoint, **options):
            rest.append(step.loss())
        assert losses[index:] == rest
        assert (whole == step.render()).all()


def test_a_drawing_ends_when_its_loss_has_long_not_been_lower():
    def falling_until(last):
        return lambda image, index: image.sum() * 0 + max(0.0, 1 - index / last)

    # 0.8 of the mean is the past: it is lower for some steps more. It is looked at every tenth step
    steps = list(steps_of(200, loss=falling_until(50), stop_after=20))
    assert 70 <= steps[-1].index <= 120
    assert steps[-1].index % 10 == 0
    assert [step.ends_early for step in steps] == [False] * (len(steps) - 1) + [True]
    # one that is coarse for now is drawn in full size before it ends
    steps = list(steps_of(60, loss=falling_until(5), stop_after=10, coarse=0.4))
    assert 34 <= steps[-1].index <= 50
    assert len(list(steps_of(60, loss=falling_until(60), stop_after=20))) == 60
    assert len(list(steps_of(60, loss=falling_until(5), stop_after=0))) == 60


def test_a_loss_that_is_not_finite_is_told_and_not_checkpointed():
    def ask(image, index):
        return image.sum() * (float("nan") if index == 2 else 1.0)

    steps = steps_of(4, loss=ask)
    next(steps)
    broken = next(steps)
    for tell in (broken.loss, broken.checkpoint, broken.render):
        with pytest.raises(GenerationError, match="no longer finite"):
            tell()
    next(steps)
    with pytest.raises(GenerationError, match="no longer finite"):
        next(steps)


class WaitedForDevice(AssertionError):
    """Something needed a value that the device has not computed yet."""


class Watch(TorchDispatchMode):
    """Takes what networks compute, and what follows from it, for the device's, and lets nothing read it."""

    READS = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2"})

    def __init__(self, sources):
        super().__init__()
        self._of_device = WeakTensorKeyDictionary()
        self.followed = 0
        for tensor in sources:
            self._of_device[tensor] = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        if any(tensor in self._of_device for tensor in tensors_in((args, kwargs or {}))):
            if func.overloadpacket.__name__ in self.READS:
                raise WaitedForDevice(str(func))
            for tensor in tensors_in(answer):
                self._of_device[tensor] = True
                self.followed += 1
        return answer


def tensors_in(value):
    leaves = torch.utils._pytree.tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


@pytest.fixture(scope="module")
def networks():
    return Networks(NetworkNames())


DRAWERS = [name for name in available() if "cutouts" in find(name).Options.model_fields]
BUSY = {
    "smoothness": 0.1,
    "saturation": 0.1,
    "symmetry": 0.1,
    "palette": ["#ff0000", "#00ff00"],
    "palette_weight": 0.1,
    "edge": 0.1,
    "init_weight": 0.1,
    "contrast": 0.1,
    "learning_rate_drops": [0.5],
    "coarse": 0.4,
    "zoom": 1.05,
    "move_every": 2,
    "tile": True,
}


@pytest.mark.parametrize(
    ("generator", "options"),
    [
        *((name, BUSY) for name in DRAWERS),
        *zip(
            DRAWERS,
            ({"cutout_method": method} for method in ("original", "updated", "pooling", "pixray")),
            strict=True,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("cutout_method", "busy"),
)
def test_nothing_waits_for_the_device_between_steps(networks, generator, options):
    request = complete(
        NetworkNames(),
        generator=generator,
        prompts=parse("a red heart|a cat:-0.5"),
        width=32,
        height=32,
        steps=3,
        seed=1,
        options={"cutouts": 1, "templates": ["{prompt}"]} | options,
    )
    steps = find(generator).load(networks)(Drawing(request, seed=1))
    watch = Watch(
        parameter
        for network in (networks.clip("demo-icons")._model, networks.vqgan())
        for parameter in (*network.parameters(), *network.buffers())
    )
    for _ in range(request.steps - 1):  # the last one looks whether the loss was finite
        with watch:
            step = next(steps)
    assert watch.followed > 500
    with watch, pytest.raises(WaitedForDevice):
        step.loss()


def test_cutouts_read_nothing_of_the_picture():
    picture = torch.rand(1, 3, 40, 56)
    for method in ("original", "updated", "pooling", "pixray", "views"):
        cut = cutouts_of(DrawingOptions(cutouts=3, cutout_method=method), torch.Generator())
        with Watch([picture]) as watch:
            cut(picture, 32)
        assert watch.followed > 3
