"""The cards of the VQGANs, and what the generators take from them."""

import json

import pytest

from models.generators import available, complete, find
from models.networks.vqgan import UnknownVqgan, VqganConfig, read_card, read_config
from models.networks.vqgan import available as cards
from models.requests.network_names import NetworkNames
from models.requests.request import Prompt

PUBLISHED = {
    "imagenet-f16-1024": ("VQModel", 1024, 16),
    "imagenet-f16-16384": ("VQModel", 16384, 16),
    "openimages-f8-8192": ("GumbelVQ", 8192, 8),
    "wikiart-f16-1024": ("VQModel", 1024, 16),
    "wikiart-f16-16384": ("VQModel", 16384, 16),
    "sflckr": ("VQModel", 1024, 16),
    "faceshq": ("VQModel", 1024, 16),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_have_their_true_configs(name):
    card = read_card(name)
    assert PUBLISHED[name] == (card.kind, card.config.n_embed, card.config.factor)
    assert card.config.embed_dim == 256


@pytest.mark.parametrize("name", cards())
def test_every_card_gives_the_generator_valid_defaults(name):
    names = NetworkNames(vqgan=name)
    request = complete(names, generator="vqgan_clip", prompts=(Prompt(text="a cat"),))
    profile = find("vqgan_clip").profile(names)
    assert profile.steps == request.steps
    assert profile.options.model_dump(mode="json") == request.options


def test_an_unknown_card_is_refused_and_the_known_ones_are_named():
    with pytest.raises(UnknownVqgan, match="imagenet-f16-16384"):
        read_card("imagenet_16384")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda params: params,
        lambda params: {"model": {"target": "taming.models.vqgan.VQModel", "params": params}},
        lambda params: {"model": {"params": {"first_stage_config": {"params": params}}}},
    ],
    ids=["bare", "taming", "under a transformer"],
)
def test_configs_are_read_in_tamings_layouts(tmp_path, wrap):
    params = json.loads(read_card("demo").config.model_dump_json()) | {"lossconfig": {"target": "x"}}
    (tmp_path / "config.json").write_text(json.dumps(wrap(params)))
    assert read_card("demo").config == read_config(tmp_path / "config.json")


def test_a_config_with_an_unknown_network_parameter_is_refused():
    params = json.loads(read_card("demo").config.model_dump_json())
    params["ddconfig"]["attn_type"] = "linear"
    with pytest.raises(ValueError, match="attn_type"):
        VqganConfig.model_validate(params)


@pytest.mark.parametrize("name", available())
def test_every_option_of_a_generator_has_a_default_and_a_description(name):
    options = find(name).Options
    options()
    assert all(field.description for field in options.model_fields.values())


def test_a_size_that_is_no_multiple_of_the_codes_is_refused():
    with pytest.raises(ValueError, match="multiples of 8"):
        complete(NetworkNames(), generator="vqgan_clip", prompts=(Prompt(text="a"),), width=100)
