"""unCLIP with small random networks, in the layout of Karlo's folders: diffusers' pictures, step by step."""

import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.deprecated.unclip import UnCLIPImageVariationPipeline, UnCLIPPipeline
from PIL import Image

from models.catalog.memory import predict
from models.generators import complete, find
from models.networks import unclip
from models.networks.shared_networks import Networks
from models.networks.unclip.unclip_model import Plan, TextTooLong, Unclip
from models.requests.checkpoint import CheckpointUnusable
from models.requests.generator import Drawing, GenerationError
from models.requests.network_names import NetworkNames
from models.requests.request import Prompt
from models.weights_io import WeightsCorrupt, WeightsMissing, WeightsUnusable, write_sums
from models.weights_io.card import WEIGHTS
from tests.support.weights.unclip_folders import SIDE, write_unclip

BOTH = ("tiny-text", "tiny-image")
FEW = {"prior_steps": 3, "decoder_steps": 4, "upscaling_steps": 3}
TEXT = (Prompt(text="a red heart"),)
PICTURE = (Prompt(target="photo"),)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models, and what else a worker loads."""
    weights = tmp_path_factory.mktemp("weights")
    write_unclip(weights / "tiny-text", "text")
    write_unclip(weights / "tiny-image", "image")
    for folder in ("clip-icons", "clip-photo", "clip-words", "vqgan"):
        (weights / folder).symlink_to(WEIGHTS / folder)
    return weights


@pytest.fixture(scope="module")
def model(weights: Path) -> Unclip:
    return unclip.load(BOTH, weights)


@pytest.fixture(scope="module")
def networks(weights: Path) -> Networks:
    return Networks(NetworkNames(unclip=BOTH, weights=weights, device="cpu", held_out="demo-photo"))


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    values = np.random.default_rng(5).integers(0, 256, (30, 40, 3), np.uint8)
    return Image.fromarray(values)


def asked(networks: Networks, prompts: tuple[Prompt, ...] = TEXT, **options: Any) -> Any:
    return complete(networks.names, generator="unclip", prompts=prompts, seed=3, options=FEW | options)


def draw(
    networks: Networks, request: Any, photo: Image.Image | None = None, state: bytes | None = None
) -> Any:
    pictures = {} if photo is None else {"photo": photo}
    generator = find("unclip").load(networks)
    return generator(Drawing(request, seed=request.seed, images=pictures, resume_from=state))


@pytest.mark.parametrize(("prior", "decoder"), [(4, 8), (1, 1), (1, 3), (2.5, 1)])
def test_a_seed_gives_the_picture_of_the_pipeline_to_the_last_bit(
    model: Unclip, photo: Image.Image, prior: float, decoder: float
) -> None:
    plan = Plan(3, 4, 3, prior, decoder)
    common = {
        "decoder_num_inference_steps": 4,
        "super_res_num_inference_steps": 3,
        "decoder_guidance_scale": decoder,
        "output_type": "np",
    }
    # of our networks: weights that lie elsewhere in memory may give other last bits on a CPU
    parts = model._parts
    others = ("image_encoder", "feature_extractor"), ("prior", "prior_scheduler")
    by_text, by_picture = (
        kind(**{name: part for name, part in parts.items() if name not in other})
        for kind, other in zip((UnCLIPPipeline, UnCLIPImageVariationPipeline), others, strict=True)
    )
    by_text.set_progress_bar_config(disable=True)
    by_picture.set_progress_bar_config(disable=True)
    expected = by_text(
        "a red heart",
        generator=torch.Generator().manual_seed(7),
        prior_num_inference_steps=3,
        prior_guidance_scale=prior,
        **common,
    ).images
    assert np.array_equal(expected, drawn(model, model.condition_on_text("a red heart", plan), plan))
    expected = by_picture(photo, generator=torch.Generator().manual_seed(7), **common).images
    assert np.array_equal(expected, drawn(model, model.condition_on_image(photo, plan), plan))


def drawn(model: Unclip, conditioning: Any, plan: Plan) -> Any:
    *_, last = model.steps(conditioning, plan, 7)
    assert last.picture is not None
    return (last.picture * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("prompts", "count"), [(TEXT, 10), (PICTURE, 7)])
def test_a_drawing_goes_on_from_every_step_to_the_same_bytes(
    networks: Networks, photo: Image.Image, prompts: tuple[Prompt, ...], count: int
) -> None:
    request = asked(networks, prompts)
    whole = list(draw(networks, request, photo))
    assert [(step.index, step.total) for step in whole] == [(index, count) for index in range(1, count + 1)]
    for step in whole[:-1]:
        rest = list(draw(networks, request, photo, step.checkpoint()))
        assert [other.index for other in rest] == list(range(step.index + 1, count + 1))
        assert rest[-1].render().tobytes() == whole[-1].render().tobytes()
        assert rest[-1].score() == whole[-1].score()


def test_a_picture_is_seen_from_the_decoder_on_and_scored_at_the_end(networks: Networks) -> None:
    whole = list(draw(networks, asked(networks)))
    looks = [step.render() for step in whole]
    assert all(look.shape == (SIDE, SIDE, 3) for look in looks)
    assert all((look == 230).all() for look in looks[:3]), "a prior makes no picture"
    assert len({look.tobytes() for look in looks[3:]}) == 7
    assert all(step.score is None and step.held_out_score is None for step in whole[:-1])
    assert -1 <= whole[-1].score() <= 1
    assert -1 <= whole[-1].held_out_score() <= 1


def test_seed_text_and_guidance_change_the_picture(networks: Networks, photo: Image.Image) -> None:
    requests = [
        asked(networks),
        asked(networks).model_copy(update={"seed": 4}),
        asked(networks, (Prompt(text="a blue car"),)),
        asked(networks, prior_guidance=9),
        asked(networks, decoder_guidance=1),
        asked(networks, PICTURE),
    ]
    pictures = [list(draw(networks, request, photo))[-1].render().tobytes() for request in requests]
    assert len(set(pictures)) == len(requests)
    assert list(draw(networks, requests[0]))[-1].render().tobytes() == pictures[0]
    image = asked(networks, (Prompt(image="photo"),))
    assert list(draw(networks, image, photo))[-1].render().tobytes() == pictures[-1]


def test_a_checkpoint_of_another_request_is_refused_at_once(networks: Networks) -> None:
    state = next(draw(networks, asked(networks))).checkpoint()
    with pytest.raises(CheckpointUnusable):
        draw(networks, asked(networks, prior_guidance=9), state=state)


def test_a_text_that_is_too_long_is_refused(model: Unclip, networks: Networks) -> None:
    with pytest.raises(TextTooLong, match="77 are read"):
        model.condition_on_text("a" * 76, Plan(2, 2, 2, 1, 1))
    with pytest.raises(GenerationError, match="too long"):
        draw(networks, asked(networks, (Prompt(text="a" * 76),)))


def test_each_network_is_loaded_once_from_the_first_model_that_has_it(weights: Path, model: Unclip) -> None:
    sizes = {names: unclip.read_parts(names, weights).weight_bytes("fp32") for names in (BOTH, BOTH[:1])}
    extra = sum(tensor.numel() for tensor in model._parts["image_encoder"].parameters())
    assert sizes[BOTH] - sizes[BOTH[:1]] == 4 * extra
    numbers = sum(
        tensor.numel()
        for part in model._parts.values()
        if isinstance(part, torch.nn.Module)
        for tensor in part.parameters()
    )
    assert sizes[BOTH] == 4 * numbers
    request = complete(NetworkNames(unclip=BOTH, weights=weights), generator="unclip", prompts=TEXT)
    assert predict(request, NetworkNames(unclip=BOTH, weights=weights), low_memory=False) > sizes[BOTH]


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_draws_about_the_same_and_goes_on(weights: Path, model: Unclip, dtype: str) -> None:
    half, plan = unclip.load(BOTH, weights, dtype=dtype), Plan(3, 4, 3, 2, 2)
    conditioning = half.condition_on_text("a red heart", plan)
    states = list(half.steps(conditioning, plan, 7))
    *_, rest = half.steps(conditioning, plan, 7, states[4])
    assert states[-1].picture is not None
    assert rest.picture is not None
    assert torch.equal(states[-1].picture, rest.picture)
    assert states[-1].picture.dtype == half.dtype != torch.float32
    assert states[-1].picture.isfinite().all()


def test_loading_asks_nobody_and_says_nothing(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    unclip.load(BOTH, weights)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_without_the_extra_it_says_what_to_install(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "models.networks.unclip.unclip_model")
    assert find("unclip").profile(NetworkNames(unclip=BOTH, weights=weights)).width == SIDE
    with pytest.raises(WeightsUnusable, match=r"install clipcanvas\[unclip\]"):
        unclip.load(BOTH, weights)


def test_weights_that_are_not_right_are_refused_and_say_what(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    write_unclip(folder, "text")
    part = folder / "text_proj" / "diffusion_pytorch_model.safetensors"
    write_sums(part.parent, {part.name: "0" * 64})
    with pytest.raises(WeightsCorrupt, match="text_proj"):
        unclip.load(["tiny"], tmp_path)
    (part.parent / "SHA256SUMS").unlink()
    tensors = part.read_bytes()
    part.write_bytes(tensors[:100])
    with pytest.raises(WeightsUnusable, match="text_proj"):
        unclip.load(["tiny"], tmp_path)
    part.rename(part.with_suffix(".bin"))  # a pickle there is no help
    with pytest.raises(WeightsMissing, match="clipcanvas models pull tiny"):
        unclip.load(["tiny"], tmp_path)
    part.write_bytes(tensors.replace(b"embedding_proj.bias", b"embedding_proj.baas"))
    with pytest.raises(WeightsUnusable, match=r"embedding_proj\.bias is missing; .*baas is not expected"):
        unclip.load(["tiny"], tmp_path)


def test_models_that_do_not_go_together_are_refused(weights: Path, tmp_path: Path) -> None:
    for name in BOTH:
        (tmp_path / name).symlink_to(weights / name)
    other = tmp_path / "other"
    other.mkdir()
    text = (weights / "tiny-image" / "unclip.toml").read_text()
    (other / "unclip.toml").write_text(text.replace("decoder = ", "decoder = 9"))
    with pytest.raises(WeightsUnusable, match="other and tiny-text do not go together: decoder differs"):
        unclip.load(["tiny-text", "other"], tmp_path)
