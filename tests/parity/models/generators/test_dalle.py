"""The generators that sample, with the demo weights: their steps, what they keep, what they refuse."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from models.catalog.memory import predict
from models.generators import complete, find
from models.networks.shared_networks import Networks
from models.requests.checkpoint import CheckpointUnusable
from models.requests.generator import Drawing, GenerationError
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.requests.request import InvalidRequest, Presets, Prompt
from models.sampling.candidates import Candidates, condition_on_text, unconditioned

pytestmark = pytest.mark.timeout(180)  # on a busy machine

NAMES = NetworkNames()
FEW = {"candidates": 3}


@pytest.fixture(scope="module")
def networks():
    return Networks(NetworkNames(device="cpu", held_out="demo-photo"))


@pytest.fixture(scope="module")
def photo():
    rows = np.zeros((96, 96, 3), np.uint8)
    rows[:48, :, 0], rows[48:, :, 2] = 220, 220
    return Image.fromarray(rows)


def asked(generator="dalle", prompt="a red heart", **fields):
    fields["options"] = FEW | fields.get("options", {})
    prompts = parse(prompt) if isinstance(prompt, str) else prompt
    return complete(NAMES, generator=generator, prompts=prompts, seed=3, **fields)


def steps(networks, request, *, pictures=None, checkpoint=None):
    generator = find(request.generator).load(networks)
    return generator(Drawing(request, seed=request.seed, images=pictures or {}, resume_from=checkpoint))


@pytest.mark.parametrize("generator", ["dalle", "vqgan_transformer"])
def test_a_drawing_goes_on_from_any_checkpoint_to_the_same_bytes(networks, generator):
    request = asked(generator)
    whole = list(steps(networks, request))
    assert [(step.index, step.total) for step in whole] == [(index, 144) for index in range(1, 145)]
    for index in (1, 77, 143):
        state = whole[index - 1].checkpoint()
        rest = list(steps(networks, request, checkpoint=state))
        assert [step.index for step in rest] == list(range(index + 1, 145))
        assert rest[-1].render().tobytes() == whole[-1].render().tobytes()
        assert rest[-1].score() == whole[-1].score()


def test_in_bf16_the_same_is_expected_up_to_rounding_and_drawn_again_bit_for_bit(networks):
    quick = Networks(NetworkNames(device="cpu", dtype="bf16"))
    request = asked()
    conditioning, rough = condition_on_text(request, 3.0, networks), condition_on_text(request, 3.0, quick)
    assert rough.transformer.positions.dtype == torch.bfloat16
    codes = torch.randint(1024, (len(conditioning.mix), 144), generator=torch.Generator().manual_seed(0))
    exact = networks.dalle()(conditioning.conditions, codes).softmax(-1)
    rounded = quick.dalle()(rough.conditions, codes).float().softmax(-1)
    assert (exact - rounded).abs().sum(-1).mean() < 0.05  # twice the total variation
    first, again = (list(steps(quick, request))[-1] for _ in range(2))
    assert first.render().tobytes() == again.render().tobytes()
    assert first.score() > 0.3


def test_a_checkpoint_of_another_request_is_refused_at_once(networks):
    state = next(steps(networks, asked())).checkpoint()
    with pytest.raises(CheckpointUnusable):
        steps(networks, asked(prompt="a blue car"), checkpoint=state)


def test_the_best_of_the_candidates_is_kept(networks):
    """Each candidate alone is the same picture; the one that is kept scores highest."""
    request = asked(options={"candidates": 4})
    conditioning = condition_on_text(request, 3, networks)
    options = find("dalle").Options.model_validate(request.options)
    found = Candidates(conditioning, networks.vqgan(), Drawing(request, request.seed), options, networks)
    best = found.finish()
    *_, last = steps(networks, request)
    alone = [
        networks.vqgan().decode(networks.vqgan().lookup(codes.view(1, 12, 12))).clamp(0, 1)
        for codes in found._sampler.codes
    ]
    from models.optimize.clip_loss import scores

    ranked = [float(scores(image, found._guides, 1)) for image in alone]
    assert max(ranked) == pytest.approx(last.score(), abs=1e-5)
    assert torch.equal(best.flatten(), found._sampler.codes[int(np.argmax(ranked))])
    assert -1 <= last.held_out_score() <= 1


def test_a_picture_grows_row_by_row(networks):
    for step in itertools.islice(steps(networks, asked()), 30, 31):
        picture = step.render()
    assert picture.shape == (96, 96, 3)
    # 31 of 144 codes: two rows of twelve, and seven; what is not drawn is gray
    assert (picture[24:] == 230).all()
    assert (picture[16:24, 56:] == 230).all()
    assert not (picture[:16] == 230).all()
    assert step.score is None


@pytest.mark.parametrize("generator", ["dalle", "vqgan_transformer"])
def test_the_lower_half_of_a_picture_is_drawn_anew(networks, photo, generator):
    request = asked(generator, options={"init_image": "photo"})
    drawn = list(steps(networks, request, pictures={"photo": photo}))
    assert [step.index for step in drawn] == list(range(73, 145))
    vqgan = networks.vqgan()
    tensor = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 255
    known = len(networks.dalle().transformer.tokens.weight)
    assert known < len(vqgan.codebook)
    again = vqgan.decode(vqgan.lookup(vqgan.codes(tensor, known)))
    kept = again.clamp(0, 1)[0, :, :32]  # codes near the border see what is new
    shown = torch.from_numpy(drawn[-1].render().copy()).permute(2, 0, 1)[:, :32] / 255
    assert (shown - kept).abs().mean() < 0.05
    middle = drawn[20].checkpoint()
    *_, last = steps(networks, request, pictures={"photo": photo}, checkpoint=middle)
    assert last.render().tobytes() == drawn[-1].render().tobytes()


def test_texts_change_the_picture_and_a_negative_one_does_too(networks):
    pictures = [
        list(steps(networks, asked(prompt=prompt, options={"candidates": 1})))[-1].render().tobytes()
        for prompt in ("a red heart", "a green tree", "a red heart | pink:-0.5")
    ]
    assert len(set(pictures)) == 3


def test_words_that_clip_writes_as_no_token_are_no_text(networks):
    nothing = unconditioned(networks).conditions
    conditioning = condition_on_text(asked(prompt=(Prompt(text=" "),)), 3, networks).conditions
    assert torch.equal(conditioning.before[1], nothing.before[0])


def test_a_text_longer_than_clip_reads_is_refused(networks):
    with pytest.raises(GenerationError, match="too long"):
        steps(networks, asked(prompt="ab,cd;" * 15))


@pytest.mark.parametrize("start", ["dalle", "prior"])
def test_vqgan_clip_goes_on_from_what_was_sampled(networks, start):
    request = asked("vqgan_clip", steps=2, options={"start": start, "candidates": 2, "cutouts": 2})
    drawing = steps(networks, request)
    state = next(drawing).checkpoint()
    expected = next(drawing).render().tobytes()
    for checkpoint in (None, state):
        *_, last = steps(networks, request, checkpoint=checkpoint)
        assert last.render().tobytes() == expected


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"width": 192}, "/width", "invalid_size"),
        ({"height": 192}, "/height", "invalid_size"),
        ({"steps": 70}, "/steps", "invalid_steps"),
        ({"prompt": (Prompt(noise=1),)}, "/prompts/0", "text_only"),
        ({"prompt": "a cat:-1"}, "/prompts", "nothing_to_draw"),
        ({"presets": Presets(aspect="portrait")}, "/presets/aspect", "unknown_preset"),
        ({"presets": Presets(compat="pixray")}, "/presets/compat", "unknown_preset"),
        ({"generator": "vqgan_transformer", "options": {"label": 3}}, "/options/label", "unknown_label"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_a_job_is_made(fields, pointer, code):
    with pytest.raises(InvalidRequest) as caught:
        asked(**fields)
    assert (pointer, code) == (caught.value.pointer, caught.value.code)


@pytest.mark.parametrize("generator", ["dalle", "vqgan_transformer"])
def test_a_vqgan_without_a_transformer_cannot_sample(generator):
    names = NetworkNames(vqgan="imagenet-f16-16384")
    with pytest.raises(InvalidRequest, match="has no"):
        complete(names, generator=generator, prompts=parse("a fox"))
    with pytest.raises(InvalidRequest, match="has no dalle"):
        complete(names, generator="vqgan_clip", prompts=parse("a fox"), options={"start": "dalle"})


def test_quality_is_a_matter_of_candidates_and_more_of_them_take_more_memory():
    draft, best = (asked(presets=Presets(quality=quality), options={}) for quality in ("draft", "best"))
    profile = find("dalle").profile
    counts = [profile(NAMES, Presets(quality=q)).options.candidates for q in ("draft", "normal", "best")]
    assert counts == [8, 16, 32]
    few, many = (asked(options={"candidates": number}) for number in (1, 64))
    assert predict(few, NAMES, low_memory=False) < predict(many, NAMES, low_memory=False)
    assert draft.steps == best.steps == 144
