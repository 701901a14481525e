"""Prompts of every kind pull as they say, at their time, through one or several CLIPs; here linear ones."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from models.clip import TextTooLong
from models.generators import complete, find
from models.networks.shared_networks import Networks
from models.optimize.clip_loss import (
    ClipLoss,
    Guide,
    guides_of,
    held_out_of,
    prompts_loss,
    scores,
    spherical_distance,
)
from models.optimize.prompt_targets import embed, targets_of
from models.requests.generator import Drawing, GenerationError
from models.requests.network_names import NetworkNames
from models.requests.options import DrawingOptions
from models.requests.prompts import distractors, parse
from models.requests.request import GenerationRequest, Prompt
from models.runtime.batched_steps import RoundRobin

CPU = torch.device("cpu")
SIZE = (16, 16)
STEPS = 10


class LinearClip:
    """Embeds pictures by a matrix and texts of up to 4 words by their letters; counts what it is shown."""

    context_length = 4

    def __init__(self, name="first", image_size=8, dimension=5):
        self.name, self.image_size, self.dimension, self.tokens = name, image_size, dimension, self
        rng = torch.Generator().manual_seed(dimension)
        self._matrix = torch.randn(3 * image_size**2, dimension, generator=rng)
        self.shown = []

    def encode_image(self, images):
        assert images.shape[1:] == (3, self.image_size, self.image_size)
        self.shown.append(len(images))
        return F.normalize(images.flatten(1) @ self._matrix - self._matrix.sum(0) / 2, dim=-1)

    def encode_text(self, texts):
        for text in texts:
            if self.count(text) > self.context_length:
                raise TextTooLong(f"more than {self.context_length} tokens")
        seeds = [torch.Generator().manual_seed(sum(map(ord, text))) for text in texts]
        return F.normalize(
            torch.cat([torch.randn(1, self.dimension, generator=seed) for seed in seeds]), dim=-1
        )

    def count(self, text):
        return len(text.split())


class LinearClips:
    """Networks of such."""

    device, scheduler = CPU, RoundRobin()

    def __init__(self, *clips, held_out=None):
        self.guides, self.held_out = lambda: list(clips), lambda: held_out


def picture(seed=0, size=SIZE):
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def photo(seed=5):
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
    return Image.fromarray(pixels)


def squares(images, size, done=0.0):
    """Three views that are not left to chance."""
    views = [F.interpolate(images[..., k : 12 + k, k : 12 + k], size=(size, size)) for k in range(3)]
    return torch.stack(views, 1)


def guidance_of(*prompts, clip=None, pictures=(), steps=STEPS, cutouts=squares, contrast=0.0):
    clip = clip or LinearClip()
    drawing = Drawing(request_of(*prompts, steps=steps), seed=1, images=dict(pictures))
    targets = targets_of(clip, prompts, drawing, CPU, contrast=contrast)
    return ClipLoss([Guide(clip, targets)], cutouts, RoundRobin())


def loss_and_gradient(guidance, index=1, seed=0):
    image = picture(seed).requires_grad_(True)
    loss = guidance(image, index)
    loss.backward()
    return loss.item(), image.grad


def drawing_of(request):
    return Drawing(request, seed=1, images={"photo": photo()})


def request_of(*prompts, steps=STEPS, **options):
    return GenerationRequest(
        generator="pixels", prompts=prompts, width=16, height=16, steps=steps, seed=1, options=options
    )


def test_the_loss_is_each_weight_times_its_mean_distance_and_stops_only_end_the_pull():
    clip = LinearClip()
    seen = clip.encode_image(squares(picture(), 8)[0])
    near, far = (spherical_distance(seen, clip.encode_text([text])).mean().item() for text in ("near", "far"))
    loss, gradient = loss_and_gradient(guidance_of(Prompt(text="near"), Prompt(text="far", weight=-0.5)))
    assert loss == pytest.approx(near - 0.5 * far)
    assert gradient.abs().sum() > 0
    stopped = Prompt(text="near", weight=2, stop=5)  # no distance is as much
    loss, gradient = loss_and_gradient(guidance_of(stopped))
    assert loss == pytest.approx(2 * near)
    assert not gradient.any()


def test_opposite_and_equal_vectors_have_finite_distances_and_slopes():
    vector = F.normalize(torch.randn(50, 640, generator=torch.Generator().manual_seed(0)), dim=-1)
    for other, expected in ((vector, 0), (-vector, math.pi**2 / 2)):
        moving = other.clone().requires_grad_(True)
        distance = spherical_distance(moving, vector)
        distance.sum().backward()
        assert distance.tolist() == pytest.approx([expected] * 50, abs=0.01)
        assert moving.grad.isfinite().all()


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(text="a cat"),
        Prompt(image="photo"),
        Prompt(target="photo"),
        Prompt(vector=(1, 0, 0, -2, 3)),
        Prompt(noise=7),
    ],
    ids=["text", "image", "target", "vector", "noise"],
)
def test_each_kind_of_prompt_pulls_the_picture_to_it_or_away(prompt):
    for weight, sign in ((1.0, -1), (-1.0, 1)):
        weighted = prompt.model_copy(update={"weight": weight})
        guidance = guidance_of(weighted, pictures={"photo": photo()})
        _, gradient = loss_and_gradient(guidance)
        with torch.no_grad():
            there, moved = (
                abs(guidance(image, 1).item()) for image in (picture(), picture() - 0.3 * gradient)
            )
        assert (moved - there) * sign > 1e-4


def test_a_vector_counts_by_its_direction_whatever_its_length():
    losses = [
        loss_and_gradient(guidance_of(Prompt(vector=vector)))[0]
        for vector in ((1, 0, 0, -2, 3), (1e-30, 0, 0, -2e-30, 3e-30), (1e300, 0, 0, -2e300, 3e300))
    ]
    assert losses[0] == pytest.approx(losses[1])
    assert losses[0] == pytest.approx(losses[2])


@pytest.mark.parametrize(
    ("vector", "message"),
    [((1, 2), "a vector prompt has 2 numbers; embeddings of first have 5"), ((0,) * 5, "no direction")],
)
def test_a_vector_of_no_use_says_why(vector, message):
    with pytest.raises(GenerationError, match=message):
        guidance_of(Prompt(vector=vector))


def test_noise_comes_from_its_own_seed_alone():
    alone, other = (targets_of_noise(Prompt(noise=seed)) for seed in (7, 8))
    beside = targets_of_noise(Prompt(text="a cat"), Prompt(noise=7))
    assert torch.equal(alone[0], beside[1])
    assert not torch.allclose(alone[0], other[0])
    assert alone[0].norm().item() == pytest.approx(1)


def targets_of_noise(*prompts):
    return targets_of(LinearClip(), prompts, drawing_of(request_of(*prompts, steps=1)), CPU).vectors


def test_phases_pull_one_after_the_other_and_what_is_beside_them_throughout():
    prompts = (*parse("a cat | dull:-0.5 ^ a dog"), Prompt(image="photo"))
    pictures = {"photo": photo()}
    both = guidance_of(*prompts, pictures=pictures)
    first = guidance_of(*parse("a cat | dull:-0.5"), prompts[-1], pictures=pictures)
    second = guidance_of(*parse("a dog"), prompts[-1], pictures=pictures)
    for index in range(1, STEPS + 1):
        now = first if index <= STEPS / 2 else second
        loss, gradient = loss_and_gradient(both, index)
        expected, same = loss_and_gradient(now, index)
        assert loss == pytest.approx(expected)
        assert torch.allclose(same, gradient, atol=1e-7)
        assert both.score(picture(), index).item() == pytest.approx(now.score(picture(), index).item())


def test_a_prompt_that_fades_pulls_by_its_weight_at_the_time():
    fading = guidance_of(Prompt(text="a cat", weight=2, begin=0.2, end=0.6, fade=0.2))
    whole, _ = loss_and_gradient(guidance_of(Prompt(text="a cat")))
    losses = [loss_and_gradient(fading, index)[0] / whole for index in range(1, STEPS + 1)]
    assert losses == pytest.approx([0, 0, 0, 1, 2, 2, 2, 1, 0, 0], abs=1e-5)


def test_a_prompt_without_weight_moves_nothing_and_its_picture_is_not_looked_at():
    clip = LinearClip()
    prompts = [Prompt(text="a cat", weight=0), Prompt(image="photo", begin=0.5), Prompt(noise=1, weight=0)]
    guidance = guidance_of(*prompts, clip=clip, pictures={"photo": photo()}, contrast=1.0)
    clip.shown.clear()
    loss, gradient = loss_and_gradient(guidance, 1)
    assert loss == 0
    assert not gradient.any()
    assert clip.shown == [3]
    assert guidance.score(picture(), 1).item() == 0
    loss, gradient = loss_and_gradient(guidance, STEPS)
    assert loss > 0
    assert gradient.any()


def test_a_step_shows_the_clip_all_it_has_to_see_at_once_and_targets_never_again():
    clip = LinearClip()
    prompts = [Prompt(text="a cat"), Prompt(image="photo"), Prompt(image="other"), Prompt(target="photo")]
    guidance = guidance_of(*prompts, clip=clip, pictures={"photo": photo(), "other": photo(6)})
    clip.shown.clear()
    for index in (1, 2):
        loss_and_gradient(guidance, index)
    assert clip.shown == [9, 9]  # three views of the drawing and of two pictures


def test_an_image_prompt_is_cut_anew_at_each_step_in_the_places_of_the_drawing():
    rng = torch.Generator().manual_seed(0)
    places = []

    def random_square(images, size, done):
        y, x = torch.randint(0, 9, (2,), generator=rng).tolist()
        places.append((y, x))
        return images[..., y : y + size, x : x + size][:, None]

    drawn = torch.from_numpy(np.array(photo())).permute(2, 0, 1)[None] / 255
    guidance = guidance_of(Prompt(image="photo"), pictures={"photo": photo()}, cutouts=random_square)
    for index in range(1, STEPS + 1):
        assert guidance(drawn, index).item() == pytest.approx(0, abs=1e-5)
    assert len(set(places)) > STEPS / 2


def test_contrast_follows_the_weight_of_its_prompt():
    clip, prompt = LinearClip(), Prompt(text="red cat", begin=0.5)
    plain, contrasted = (guidance_of(prompt, clip=clip, contrast=weight) for weight in (0.0, 1.0))
    assert loss_and_gradient(contrasted, 1)[0] == 0
    assert loss_and_gradient(contrasted, STEPS)[0] > loss_and_gradient(plain, STEPS)[0] + 0.1


def test_contrast_is_the_cross_entropy_of_finding_a_text_among_its_distractors():
    clip = LinearClip()
    prompts = [
        Prompt(text="a red cat"),
        Prompt(noise=3),
        Prompt(text="a dog", weight=2),
        Prompt(text="x", weight=-1),
    ]
    targets = targets_of(clip, prompts, drawing_of(request_of(*prompts, steps=1)), CPU, contrast=0.5)
    seen = F.normalize(torch.randn(1, 6, clip.dimension, generator=torch.Generator().manual_seed(1)), dim=-1)
    expected = sum(
        weight * spherical_distance(seen[0], vector).mean()
        for weight, vector in zip((1, 1, 2, -1), targets.vectors, strict=False)
    )
    for weight, text in ((1, "a red cat"), (2, "a dog")):
        texts = torch.cat([embed(clip, other, ["{prompt}"]) for other in (text, *distractors(text))])
        logits = 20 * seen[0] @ texts.T
        expected += 0.5 * weight * F.cross_entropy(logits, torch.zeros(6, dtype=torch.long))
    loss = prompts_loss(
        seen,
        targets.vectors,
        targets.weights[0],
        targets.stops,
        targets.distractors,
        targets.is_distractor,
        targets.contrasts,
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_requests_of_few_or_many_prompts_have_the_same_shapes():
    clip = LinearClip()
    few, many = (
        targets_of(clip, parse(line), drawing_of(request_of(*parse(line), steps=2)), CPU, contrast=1.0)
        for line in ("a box", "a red cat | a dog | blurry:-1 | a blue bird")
    )
    for name in ("vectors", "weights", "stops", "shares", "distractors", "is_distractor", "contrasts"):
        assert getattr(few, name).shape == getattr(many, name).shape, name


def test_several_clips_count_by_their_weights_each_at_its_own_size():
    clips = [LinearClip("first", 8, 5), LinearClip("second", 6, 7)]
    request = request_of(Prompt(text="a cat"), Prompt(image="photo"))
    options = DrawingOptions(guide_weights={"second": 3})
    guides = guides_of(drawing_of(request), options, LinearClips(*clips))
    both, *alone = (ClipLoss(some, squares, RoundRobin()) for some in (guides, guides[:1], guides[1:]))
    first, second = (loss_and_gradient(one)[0] for one in alone)
    assert loss_and_gradient(both)[0] == pytest.approx((first + 3 * second) / 4)
    found = [one.score(picture(), 1).item() for one in (both, *alone)]
    assert found[0] == pytest.approx((found[1] + 3 * found[2]) / 4)


def test_a_clip_of_weight_0_is_not_run():
    clips = [LinearClip("first", 8, 5), LinearClip("second", 6, 7)]
    options = DrawingOptions(guide_weights={"first": 0})
    guides = guides_of(drawing_of(request_of(Prompt(text="a cat"))), options, LinearClips(*clips))
    guidance = ClipLoss(guides, squares, RoundRobin())
    loss_and_gradient(guidance)
    guidance.score(picture(), 1)
    assert [len(clip.shown) for clip in clips] == [0, 2]


def test_a_vector_is_for_the_first_clip_and_the_others_look_at_the_rest():
    clips = [LinearClip("first", 8, 5), LinearClip("second", 6, 7)]
    vector = Prompt(vector=(1, 0, 0, -2, 3))
    for prompts, columns in (((vector,), [1]), ((vector, Prompt(text="a cat")), [2, 1])):
        guides = guides_of(drawing_of(request_of(*prompts)), DrawingOptions(), LinearClips(*clips))
        assert columns == [int((guide.targets.vectors != 0).any(1).sum()) for guide in guides]
    with pytest.raises(GenerationError, match="leave no CLIP"):
        guides_of(
            drawing_of(request_of(vector)), DrawingOptions(guide_weights={"first": 0}), LinearClips(*clips)
        )


def test_a_text_that_a_guide_cannot_read_fails_and_names_the_guide():
    clips = LinearClips(LinearClip("first"))
    with pytest.raises(GenerationError, match="too long for first: more than 4 tokens"):
        guides_of(drawing_of(request_of(Prompt(text="a b c d e"))), DrawingOptions(), clips)


def test_the_score_is_the_cosine_of_the_whole_picture_and_what_pulls_by_weight():
    clip = LinearClip()
    guidance = guidance_of(
        Prompt(text="a cat"),
        Prompt(target="photo", weight=3),
        Prompt(text="dull", weight=-9),
        Prompt(noise=1),
        clip=clip,
        pictures={"photo": photo()},
    )
    whole = F.interpolate(picture(), size=(8, 8), mode="bicubic", antialias=True).clamp(0, 1)
    small = photo().resize((8, 8), Image.Resampling.LANCZOS)
    target = clip.encode_image(torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255)
    cosines = torch.cat([clip.encode_text(["a cat"]), target]) @ clip.encode_image(whole)[0]
    assert guidance.score(picture(), 1).item() == pytest.approx((cosines[0] + 3 * cosines[1]).item() / 4)


def test_the_held_out_clip_scores_texts_and_pictures_whole_and_only_what_pulls():
    held_out = LinearClip("held_out", 6, 7)
    request = request_of(Prompt(text="a cat"), Prompt(image="photo"), Prompt(noise=1), Prompt(vector=(1.0,)))
    guide = held_out_of(drawing_of(request), LinearClips(held_out=held_out))
    held_out.shown.clear()
    seen = scores(picture(), [guide], 1).item()
    assert held_out.shown == [1]  # the photo was looked at before
    alone = [
        scores(
            picture(), [held_out_of(drawing_of(request_of(prompt)), LinearClips(held_out=held_out))], 1
        ).item()
        for prompt in request.prompts[:2]
    ]
    assert seen == pytest.approx(sum(alone) / 2)


@pytest.mark.parametrize(
    "prompts",
    [[Prompt(text="longer than it can read")], [Prompt(noise=1), Prompt(vector=(1.0, 2.0))]],
    ids=["too long", "not for it"],
)
def test_a_held_out_clip_that_cannot_tell_says_nothing(prompts):
    assert held_out_of(drawing_of(request_of(*prompts)), LinearClips(held_out=LinearClip("held_out"))) is None


def test_without_a_held_out_clip_there_is_no_held_out_score():
    assert held_out_of(drawing_of(request_of(Prompt(text="a cat"))), LinearClips()) is None


def test_the_held_out_clip_that_is_named_is_loaded_once_and_guides_nothing():
    networks = Networks(NetworkNames(held_out="demo-photo"))
    held_out = networks.held_out()
    assert (held_out.name, *(guide.name for guide in networks.guides())) == ("demo-photo", "demo-icons")
    assert networks.held_out() is held_out
    guide = held_out_of(drawing_of(request_of(Prompt(text="a goldfish"))), networks)
    assert -1 <= scores(picture(size=(40, 30)), [guide], 1).item() <= 1
    too_long = request_of(Prompt(text="goldfish " * 40))
    assert held_out_of(drawing_of(too_long), networks) is None
    assert Networks(NetworkNames()).held_out() is None


DRAWN = {
    "width": 24,
    "height": 20,
    "steps": 6,
    "seed": 4,
    "options": {"cutouts": 3, "columns": 6, "contrast": 0.1, "templates": ["{prompt}"]},
}


def steps_of(networks, checkpoint=None):
    prompts = (*parse("red cat ^ dull:-0.5 | a dog"), Prompt(image="photo", begin=0.3, fade=0.3))
    request = complete(NetworkNames(), generator="pixels", prompts=prompts, **DRAWN)
    # a card's name could not be that of a CLIP made here
    request = request.model_copy(update={"options": request.options | {"guide_weights": {"second": 0.5}}})
    generator = find("pixels").load(networks)
    return generator(Drawing(request, seed=4, images={"photo": photo()}, resume_from=checkpoint))


def clips_with(held_out=None):
    return LinearClips(LinearClip("first", 8, 5), LinearClip("second", 6, 7), held_out=held_out)


def test_a_drawing_in_phases_by_several_clips_goes_on_byte_for_byte_where_it_was_interrupted():
    losses, checkpoints = [], []
    for step in steps_of(clips_with()):
        losses.append(step.loss())
        checkpoints.append(step.checkpoint())
        whole = step.render()
    for done in (2, 3, 5):
        *rest, last = ((step.loss(), step.render()) for step in steps_of(clips_with(), checkpoints[done - 1]))
        assert losses[done:] == [loss for loss, _ in (*rest, last)]
        assert np.array_equal(whole, last[1])


def test_the_held_out_clip_scores_a_drawing_and_has_no_part_in_it():
    without, judged = (
        [(step.loss(), step.score(), step.held_out_score()) for step in islice(steps_of(clips), 3)]
        for clips in (clips_with(), clips_with(LinearClip("held_out", 10, 4)))
    )
    assert [step[:2] for step in without] == [step[:2] for step in judged]
    assert [step[2] for step in without] == [None] * 3
    assert all(-1 <= step[2] <= 1 for step in judged)
    assert len({step[2] for step in judged}) == 3
