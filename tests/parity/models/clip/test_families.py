"""CLIPs of every family that open_clip builds load, encode and guide; here tiny, with random weights."""

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from models.clip import TextTooLong, load
from models.clip.encoder import ClipNetwork, OpenClipEncoder
from models.generators import complete, find
from models.networks.shared_networks import Networks
from models.optimize.clip_loss import spherical_distance
from models.requests.generator import Drawing
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.requests.request import Prompt
from models.weights_io import WeightsUnusable
from models.weights_io.card import WEIGHTS
from tests.support.weights.clip_families import FAMILIES, save_tokenizer


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of that family with weights drawn from a fixed seed, in a folder that open_clip loads."""
    folder = tmp_path_factory.mktemp("families") / request.param
    folder.mkdir()
    if request.param == "siglip-style":
        save_tokenizer(folder)
    config = {"model_cfg": FAMILIES[request.param], "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def networks(folder: Path) -> dict[str, Networks]:
    """By their dtype."""
    name = f"local-dir:{folder}"
    return {
        dtype: Networks(NetworkNames(clips=(name,), device="cpu", dtype=dtype)) for dtype in ("fp32", "bf16")
    }


def views_for(network: ClipNetwork) -> torch.Tensor:
    return torch.rand(2, 3, *[network.image_size] * 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_its_embeddings_have_unit_length_and_gradients_that_reach_the_picture(
    networks: dict[str, Networks], dtype: str
) -> None:
    network = networks[dtype].guides()[0]
    views = views_for(network).requires_grad_(True)
    seen, texts = network.encode_image(views), network.encode_text(["a red heart", "a blue car"])
    assert (2, network.dimension) == seen.shape == texts.shape
    assert torch.allclose(torch.ones(4), torch.cat([seen, texts]).norm(dim=-1), atol=1e-5)
    assert not torch.allclose(texts[0], texts[1], atol=1e-3)
    spherical_distance(seen, texts[:1]).mean().backward()
    assert views.grad is not None
    assert views.grad.isfinite().all()
    assert (views.grad.abs().amax((1, 2, 3)) > 0).all()


def test_16_bits_give_all_but_the_same_embeddings(networks: dict[str, Networks]) -> None:
    exact, short = (networks[dtype].guides()[0] for dtype in ("fp32", "bf16"))
    views = views_for(exact)
    with torch.no_grad():
        assert (exact.encode_image(views) * short.encode_image(views)).sum(-1).min() > 0.99
        assert (exact.encode_text(["a red heart"]) * short.encode_text(["a red heart"])).sum() > 0.99


def test_what_it_serves_is_what_guides(folder: Path) -> None:
    encoder = OpenClipEncoder.load(f"local-dir:{folder}", WEIGHTS, "cpu")
    pixels = encoder.preprocess(Image.new("RGB", (90, 50), "red"))[None]
    direct = encoder.network.encode_image(torch.from_numpy(pixels).float() / 255).numpy()
    np.testing.assert_allclose(direct, encoder.encode_images(pixels), atol=1e-6)


def test_it_guides_a_drawing_by_texts_and_pictures_in_much_or_little_memory(
    networks: dict[str, Networks],
) -> None:
    prompts = (*parse("a red heart|a car:-0.5"), Prompt(image="photo"), Prompt(target="photo"))
    options = {"cutouts": 2, "columns": 6, "contrast": 0, "templates": ["{prompt}", "clip art of {prompt}"]}
    request = complete(
        networks["fp32"].names,
        generator="pixels",
        prompts=prompts,
        width=48,
        height=40,
        steps=2,
        seed=3,
        options=options,
    )
    photo = Image.linear_gradient("L").convert("RGB")

    def first_steps(count: int, dtype: str, low_memory: bool) -> tuple[list[float], list[Any]]:
        generator = find("pixels").load(networks[dtype])
        steps = generator(Drawing(request, seed=3, images={"photo": photo}, low_memory=low_memory))
        drawn = [(step.loss(), step.render()) for step in islice(steps, count)]
        return [loss for loss, _ in drawn], [picture for _, picture in drawn]

    losses, pictures = first_steps(2, "fp32", low_memory=False)
    assert np.isfinite(losses).all()
    assert not np.array_equal(*pictures)  # gradients move it
    assert losses[:1] == pytest.approx(first_steps(1, "fp32", low_memory=True)[0], abs=1e-5)
    assert losses[:1] == pytest.approx(first_steps(1, "bf16", low_memory=True)[0], abs=0.02)


@pytest.mark.parametrize("folder", ["siglip-style"], indirect=True)
def test_a_text_too_long_for_another_tokenizer_is_refused_too(networks: dict[str, Networks]) -> None:
    network = networks["fp32"].guides()[0]
    assert network.logit_bias == pytest.approx(-10)
    assert network.tokens.count("a red heart.") == 4
    network.encode_text(["red " * 15])
    with pytest.raises(TextTooLong, match="16 tokens"):
        network.encode_text(["red " * 16])


@pytest.mark.parametrize("folder", ["siglip-style"], indirect=True)
def test_without_the_package_of_its_tokenizer_it_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(WeightsUnusable, match=r"clipcanvas\[siglip\]"):
        load(f"local-dir:{folder}", WEIGHTS)
