"""Drawing with the demo models: the same seed, the same bytes, interrupted or not."""

import numpy as np
import pytest
import torch
from PIL import Image

from models.generators import complete, find
from models.networks.shared_networks import Networks
from models.requests.checkpoint import CheckpointUnusable
from models.requests.generator import Drawing, GenerationError
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.requests.request import Prompt

pytestmark = pytest.mark.timeout(180)  # on a busy machine

SMALL = {
    "vqgan_clip": {"width": 64, "height": 48, "steps": 6, "options": {"cutouts": 3}},
    "pixels": {"width": 50, "height": 40, "steps": 6, "options": {"cutouts": 3, "rows": 7, "columns": 9}},
    "fft": {"width": 50, "height": 41, "steps": 6, "options": {"cutouts": 3}},
    "lines": {"width": 50, "height": 40, "steps": 6, "options": {"cutouts": 3, "strokes": 6}},
}


@pytest.fixture(scope="module")
def networks():
    return Networks(NetworkNames())


@pytest.fixture
def photo():
    ramp = np.linspace(0, 255, 40 * 30 * 3).astype(np.uint8).reshape(30, 40, 3)
    return Image.fromarray(ramp)


def request_of(generator, prompts="a red heart", **changes):
    values = SMALL[generator] | {"seed": 11} | changes
    prompts = parse(prompts) if isinstance(prompts, str) else prompts
    return complete(NetworkNames(), generator=generator, prompts=prompts, **values)


def steps_of(networks, request, seed=11, pictures=(), checkpoint=None):
    generator = find(request.generator).load(networks)
    return generator(Drawing(request, seed=seed, images=dict(pictures), resume_from=checkpoint))


def picture_of(*args, **kwargs):
    *_, last = steps_of(*args, **kwargs)
    return last.render()


@pytest.mark.parametrize("generator", SMALL)
def test_an_interrupted_picture_ends_byte_for_byte_as_if_it_had_not_been(networks, generator):
    request = request_of(generator)
    checkpoints, losses = {}, {}
    for step in steps_of(networks, request):
        losses[step.index] = step.loss()
        if step.index in (1, 4):
            checkpoints[step.index] = step.checkpoint()
            step.render(), step.score()  # looking must not change what comes
    whole = step.render()
    assert (request.height, request.width, 3) == whole.shape
    assert np.array_equal(whole, picture_of(networks, request))
    for index, checkpoint in checkpoints.items():
        rest = {}
        for step in steps_of(networks, request, checkpoint=checkpoint):
            rest[step.index] = step.loss()
        assert {i: loss for i, loss in losses.items() if i > index} == rest
        assert np.array_equal(whole, step.render())


@pytest.mark.parametrize("generator", SMALL)
def test_a_drawing_with_low_memory_keeps_far_less_and_has_the_same_losses(networks, generator):
    many = SMALL[generator]["options"] | {"cutouts": 16}
    request = request_of(generator, steps=2, options=many)
    losses, kept_bytes = {}, {}
    for low_memory in (False, True):
        kept = []

        def keep(tensor, kept=kept):
            kept.append(tensor.nbytes)
            return tensor

        steps = find(generator).load(networks)(Drawing(request, seed=11, low_memory=low_memory))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses[low_memory] = next(steps).loss()
        kept_bytes[low_memory] = sum(kept)
    assert losses[True] == pytest.approx(losses[False], abs=1e-5)
    # what the decoder keeps for the way back is kept all the same
    assert kept_bytes[True] < 0.7 * kept_bytes[False]


@pytest.mark.parametrize("generator", SMALL)
def test_another_seed_gives_another_picture(networks, generator):
    request = request_of(generator, steps=2)
    pictures = [picture_of(networks, request, seed=seed) for seed in (1, 2)]
    assert not np.array_equal(*pictures)


@pytest.mark.parametrize("generator", SMALL)
def test_an_unusable_checkpoint_is_refused_before_the_first_step(networks, generator):
    request = request_of(generator)
    checkpoint = next(steps_of(networks, request)).checkpoint()
    with pytest.raises(CheckpointUnusable, match="damaged"):
        steps_of(networks, request, checkpoint=checkpoint[:-9])
    with pytest.raises(CheckpointUnusable, match="another request"):
        steps_of(networks, request_of(generator, prompts="a blue car"), checkpoint=checkpoint)


@pytest.mark.parametrize("generator", SMALL)
def test_texts_and_pictures_of_any_weight_can_be_prompts(networks, generator, photo):
    prompts = (*parse("a cat|blurry:-0.5:-0.9"), Prompt(image="photo", weight=0.5))
    request = request_of(generator, prompts, steps=2)
    for step in steps_of(networks, request, pictures={"photo": photo}):
        assert np.isfinite(step.loss())
        assert -1 <= step.score() <= 1


@pytest.mark.parametrize("generator", SMALL)
def test_a_picture_alone_can_be_the_prompt(networks, generator, photo):
    request = request_of(generator, (Prompt(image="photo"),), steps=2)
    assert picture_of(networks, request, pictures={"photo": photo}).any()


def test_a_picture_that_is_not_there_fails_with_its_name(networks):
    with pytest.raises(GenerationError, match="'photo' is not there"):
        steps_of(networks, request_of("vqgan_clip", (Prompt(image="photo"),)))


def test_a_drawing_can_start_from_a_picture_and_be_held_to_it(networks, photo):
    def drawn(steps, **options):
        request = request_of(
            "vqgan_clip", steps=steps, options={"init_image": "photo", "cutouts": 3, **options}
        )
        return picture_of(networks, request, pictures={"photo": photo}).astype(int)

    start = drawn(1, learning_rate=1e-6)
    assert np.abs(start - np.asarray(photo.resize((64, 48)))).mean() < 40  # the VQGAN's own view of it
    free, held = (np.abs(drawn(6, init_weight=weight) - start).mean() for weight in (0, 1000))
    assert held < free / 2


def test_drawing_lowers_the_loss(networks):
    options = {"start": "random", "cutouts": 4}
    request = request_of("vqgan_clip", width=96, height=96, steps=12, options=options)
    losses = [step.loss() for step in steps_of(networks, request)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.1


def test_a_loss_that_is_not_finite_ends_the_drawing(networks):
    request = request_of("pixels", steps=1)
    generator = find("pixels").load(networks)

    class Blind:
        name, image_size, dimension = "blind", 32, 4

        def encode_image(self, images):
            return images.flatten(1)[:, :4] * float("nan")

        def encode_text(self, texts):
            return networks.clip("demo-icons").encode_text(texts)[:, :4]

    class Blinded:
        device, scheduler = networks.device, networks.scheduler

        def guides(self):
            return [Blind()]

        def held_out(self):
            return None

    generator = find("pixels").load(Blinded())
    with pytest.raises(GenerationError, match="no longer finite"):
        list(generator(Drawing(request, seed=1)))
