"""Drawings on one scheduler: each gets what it gets alone, and none harms another."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from models.generators import _vqgan_latents, complete
from models.networks.shared_networks import Networks
from models.requests.generator import Drawing, Step
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.runtime.batched_steps import Batched, RoundRobin, StepScheduler

pytestmark = pytest.mark.timeout(240)  # several threads draw, on a machine that may be busy

PROMPTS = ("a red heart", "a green leaf|a cat:-0.3", "a blue fish")


@pytest.fixture(scope="module")
def networks() -> Networks:
    loaded = Networks(NetworkNames(device="cpu"))
    loaded.vqgan(), loaded.guides(), loaded.prior()
    return loaded


def with_scheduler(networks: Networks, scheduler: StepScheduler) -> Networks:
    """The same networks for drawings that share a device in another way."""
    shared = Networks(networks.names)
    shared.__dict__.update(networks.__dict__, scheduler=scheduler)
    return shared


def draw(
    networks: Networks,
    prompt: str,
    *,
    steps: int = 3,
    after: Callable[[Step], None] = lambda step: None,
    **options: object,
) -> tuple[list[float], bytes, bytes]:
    """Losses, picture and checkpoint of the last step."""
    torch.set_num_threads(1)  # each thread of Python has a number of its own, which rounding depends on
    request = complete(
        networks.names,
        generator="vqgan_clip",
        prompts=parse(prompt),
        width=48,
        height=32,
        steps=steps,
        seed=len(prompt) + 3,
        options={"cutouts": 1, "templates": ["{prompt}"], **options},
    )
    losses = []
    for step in _vqgan_latents.generate(networks, Drawing(request, seed=request.seed)):
        losses.append(step.loss() if step.loss else 0.0)
        after(step)
    return losses, step.render().tobytes(), step.checkpoint()


def all_at_once(*drawings: Callable[[], object]) -> list[object]:
    """What each gives, or its error."""

    def caught(drawing: Callable[[], object]) -> object:
        try:
            return drawing()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(drawings)) as threads:
        return list(threads.map(caught, drawings))


def test_pictures_of_drawings_that_alternate_are_those_drawn_alone_bit_for_bit(networks):
    alone = [draw(networks, prompt, zoom=1.02, move_every=2) for prompt in PROMPTS]
    shared = with_scheduler(networks, RoundRobin())
    together = all_at_once(
        *(lambda prompt=prompt: draw(shared, prompt, zoom=1.02, move_every=2) for prompt in PROMPTS)
    )
    assert alone == together


def test_drawings_that_join_share_passes_and_part_by_rounding_only(networks):
    alone = [draw(networks, prompt) for prompt in PROMPTS]
    scheduler = Watched(patience_s=3)
    shared, door = with_scheduler(networks, scheduler), threading.Barrier(len(PROMPTS))

    def wait_for_all(step: Step) -> None:
        if step.index == 1:
            door.wait(30)

    together = all_at_once(
        *(lambda prompt=prompt: draw(shared, prompt, after=wait_for_all) for prompt in PROMPTS)
    )
    for (losses, _, _), (own, _, _) in zip(together, alone, strict=True):
        assert losses == pytest.approx(own, abs=1e-4)
    assert scheduler.batches["decode"][-2:] == [3, 3]
    assert scheduler.batches["encode"][-2:] == [3, 3]


class Watched(Batched):
    """Notes how many pictures networks are shown at once."""

    def __init__(self, patience_s: float) -> None:
        super().__init__(patience_s)
        self.batches: dict[str, list[int]] = {"decode": [], "encode": []}

    def forward(self, kind, network, images: Tensor) -> Tensor:
        def counted(batch: Tensor) -> Tensor:
            if batch.requires_grad:
                self.batches[kind[0]].append(len(batch))
            return network(batch)

        return super().forward(kind, counted, images)


def test_what_cannot_go_back_together_is_drawn_again_alone(networks):
    alone = [draw(networks, prompt) for prompt in PROMPTS[:2]]
    scheduler = Crowded(patience_s=3)
    shared, door = with_scheduler(networks, scheduler), threading.Barrier(2)

    def wait_for_both(step: Step) -> None:
        if step.index == 1:
            door.wait(30)

    together = all_at_once(
        *(lambda prompt=prompt: draw(shared, prompt, after=wait_for_both) for prompt in PROMPTS[:2])
    )
    assert scheduler.refused >= 2
    assert together == alone


class Crowded(Batched):
    """Its device has room for the way back of one drawing only."""

    refused = 0

    def forward(self, kind, network, images: Tensor) -> Tensor:
        def crowded(batch: Tensor) -> Tensor:
            made = network(batch)
            if kind[0] == "decode" and len(batch) > 1 and made.requires_grad:
                made.register_hook(self._refuse)
            return made

        return super().forward(kind, crowded, images)

    def _refuse(self, gradient: Tensor) -> None:
        self.refused += 1
        raise torch.OutOfMemoryError("no room")


@pytest.mark.parametrize("kind", [RoundRobin, Batched])
def test_drawings_come_and_go_between_steps(networks, kind):
    shared = with_scheduler(networks, kind())
    ends = all_at_once(*(lambda n=n: draw(shared, PROMPTS[n], steps=2 + 2 * n) for n in range(3)))
    assert [len(losses) for losses, _, _ in ends] == [2, 4, 6]
    losses, _, _ = draw(shared, PROMPTS[0], steps=2)  # it is open to more
    assert losses == pytest.approx(ends[0][0], abs=1e-4)


@pytest.mark.parametrize("kind", [RoundRobin, Batched])
def test_a_drawing_that_stops_or_is_no_longer_finite_harms_no_other(networks, kind):
    def stop(step: Step) -> None:
        if step.index == 2:
            raise InterruptedError

    alone, _, _ = draw(networks, PROMPTS[0], steps=4)
    shared = with_scheduler(networks, kind())
    stopped, _, (losses, _, _) = all_at_once(
        lambda: draw(shared, PROMPTS[1], after=stop),
        lambda: draw(shared, PROMPTS[2], learning_rate=100.0, clamp=False, latent_decay=100.0),
        lambda: draw(shared, PROMPTS[0], steps=4),
    )
    assert isinstance(stopped, InterruptedError)
    # who meets whom is chance, and rounding with it: now and then a latent is nearest to another code
    assert losses == pytest.approx(alone, abs=5e-3)


def take_steps(
    scheduler: StepScheduler, leaf: Tensor, network: Callable[[Tensor], Tensor], fails_in: str = ""
) -> Tensor:
    """Three steps of a drawing that is one number; its gradient."""
    with scheduler.session():
        for index in range(3):
            with scheduler.step():
                if fails_in == "step" and index == 1:
                    raise InterruptedError
                scheduler.backward(scheduler.forward("square", network, leaf[None]).sum())
    assert leaf.grad is not None
    return leaf.grad


def square(numbers: Tensor) -> Tensor:
    if (numbers < 0).any():
        raise ValueError("below zero")
    return numbers.square()


@pytest.mark.parametrize("kind", [RoundRobin, Batched])
def test_what_fails_in_a_step_fails_for_its_own_drawing_alone(kind):
    scheduler = kind()
    good, bad, worse = (torch.tensor(float(value), requires_grad=True) for value in (3, -1, 2))
    gradient, refused, interrupted = all_at_once(
        lambda: take_steps(scheduler, good, square),
        lambda: take_steps(scheduler, bad, square),
        lambda: take_steps(scheduler, worse, square, "step"),
    )
    assert gradient == 3 * 2 * 3
    assert isinstance(refused, ValueError)
    assert isinstance(interrupted, InterruptedError)
