"""Presets: which sizes, steps and options they stand for, with each VQGAN."""

import pytest

from models.generators import available, complete, find, preset_changes
from models.networks.vqgan import available as cards
from models.networks.vqgan import read_card
from models.requests.network_names import NetworkNames
from models.requests.options import SamplingOptions
from models.requests.request import InvalidRequest, Presets, Prompt

SHAPING = [  # those that sample or denoise draw one size
    name for name in available() if not issubclass(find(name).Options, SamplingOptions) and name != "unclip"
]
DEMO, IMAGENET = NetworkNames(), NetworkNames(vqgan="imagenet-f16-16384")


def drawn(names=DEMO, generator="vqgan_clip", **presets):
    return complete(
        names, generator=generator, prompts=(Prompt(text="a cat"),), presets=Presets.model_validate(presets)
    )


def size_of(request):
    return request.width, request.height


@pytest.mark.parametrize(
    ("compat", "size", "steps", "options"),
    [
        (
            "crowson",
            (480, 480),
            500,
            {"cutouts": 64, "cutout_method": "original", "learning_rate": 0.05, "start": "random"},
        ),
        (
            "nerdyrodent",
            (512, 512),
            500,
            {"cutouts": 32, "cutout_method": "pooling", "learning_rate": 0.1, "start": "random"},
        ),
        (
            "pixray",
            (384, 208),
            250,
            {
                "cutouts": 30,
                "cutout_method": "pixray",
                "learning_rate": 0.2,
                "learning_rate_drops": [0.75],
                "start": "perlin",
            },
        ),
    ],
)
def test_a_programs_preset_has_its_published_defaults(compat, size, steps, options):
    request = drawn(IMAGENET, compat=compat)
    assert size_of(request) == size
    assert request.steps == steps
    assert {name: request.options[name] for name in options} == options
    # and nothing of what only the demo's card asks for
    demo = drawn(DEMO, compat=compat)
    assert request.options == demo.options
    assert demo.options["contrast"] == demo.options["smoothness"] == demo.options["init_weight"] == 0
    assert (demo.options["optimizer"], demo.options["clamp"]) == ("adam", True)


@pytest.mark.parametrize(
    ("quality", "steps", "cutouts", "square", "portrait", "widescreen"),
    [
        ("draft", 200, 24, (144, 144), (128, 160), (192, 96)),
        ("normal", 250, 30, (288, 288), (256, 320), (384, 208)),
        ("better", 300, 36, (432, 432), (384, 480), (576, 320)),
        ("best", 350, 24, (576, 576), (512, 640), (768, 432)),
    ],
)
def test_pixrays_qualities_and_shapes_are_its_own(quality, steps, cutouts, square, portrait, widescreen):
    shapes = {"square": square, "portrait": portrait, "widescreen": widescreen}
    for aspect, size in shapes.items():
        request = drawn(IMAGENET, compat="pixray", quality=quality, aspect=aspect)
        assert (request.steps, request.options["cutouts"]) == (steps, cutouts)
        assert size_of(request) == size


@pytest.mark.parametrize("generator", SHAPING)
@pytest.mark.parametrize("vqgan", cards())
@pytest.mark.parametrize("aspect", ["square", "portrait", "widescreen"])
@pytest.mark.parametrize("quality", ["draft", "normal", "better", "best"])
def test_every_shape_can_be_drawn_and_has_about_the_area_of_its_quality(generator, vqgan, aspect, quality):
    names = NetworkNames(vqgan=vqgan)
    ratio = {"square": 1, "portrait": 4 / 5, "widescreen": 16 / 9}[aspect]
    request = drawn(names, generator, aspect=aspect, quality=quality)
    square = find(generator).profile(names, Presets(quality=quality))
    multiple = square.size_multiple
    width, height = size_of(request)
    assert width % multiple == height % multiple == 0
    assert (width - multiple) / height < ratio < (width + multiple) / height
    assert (width + multiple) * (height + multiple) > square.width * square.height >= width * height


def test_a_vqgan_of_small_pictures_draws_no_larger_ones():
    """The demo was trained on 96 pixels."""
    for quality in ("draft", "better", "best"):
        for compat in (None, "crowson", "nerdyrodent", "pixray"):
            request = drawn(DEMO, quality=quality, compat=compat)
            assert request.width * request.height <= 96 * 96
    sides = read_card("imagenet-f16-16384").drawing["sides"]
    assert [drawn(IMAGENET, quality=quality).width for quality in sides] == list(sides.values())


def test_quality_scales_steps_and_cutouts():
    plain, draft, best = drawn(), drawn(quality="draft"), drawn(quality="best")
    assert (draft.steps, best.steps) == (plain.steps // 2, plain.steps * 2)
    assert draft.options["cutouts"] == plain.options["cutouts"] // 2
    assert best.options == plain.options | {"cutouts": plain.options["cutouts"] * 2}


def test_what_a_request_says_itself_goes_before_presets():
    request = complete(
        DEMO,
        generator="vqgan_clip",
        prompts=(Prompt(text="a cat"),),
        presets=Presets(compat="pixray", quality="best", aspect="portrait"),
        width=64,
        steps=3,
        options={"cutouts": 7, "learning_rate_drops": []},
    )
    assert (request.width, request.height, request.steps) == (64, 104, 3)
    assert request.options["cutouts"] == 7
    assert request.options["learning_rate_drops"] == []
    assert request.options["learning_rate"] == 0.2


def test_a_program_that_a_generator_does_not_stand_in_for_is_refused():
    with pytest.raises(InvalidRequest, match="compat=pixray") as caught:
        drawn(generator="pixels", compat="pixray")
    assert caught.value.pointer == "/presets/compat"


@pytest.mark.parametrize("generator", available())
def test_the_table_of_changes_is_what_requests_get(generator):
    table = preset_changes(find(generator), DEMO)
    plain = drawn(generator=generator)
    assert table["quality"]["normal"] == {}
    assert set(table["compat"]) == (
        {"crowson", "nerdyrodent", "pixray"} if generator == "vqgan_clip" else set()
    )
    for preset, words in table.items():
        for word, changed in words.items():
            request = drawn(generator=generator, **{preset: word})
            sizes = {key: getattr(request, key) for key in ("width", "height", "steps")}
            assert sizes == {key: changed.get(key, getattr(plain, key)) for key in sizes}
            assert request.options == plain.options | changed.get("options", {})
