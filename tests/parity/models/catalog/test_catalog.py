"""What the cards say of published models is what open_clip knows, and what their configurations make."""

import json
from pathlib import Path

import open_clip
import pytest
from open_clip.pretrained import get_pretrained_cfg

from models.catalog import entries, find
from models.catalog.clip_files import NotInOpenClip, config_of, downloads_of
from models.clip import cards
from models.clip.cards import find_card, sizes_of
from models.networks import min_dalle, unclip, vqgan

PUBLISHED = [name for name in cards.available() if find_card(name).scheme == "open_clip"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_card_is_of_the_tag_that_open_clip_has(name: str) -> None:
    card = find_card(name)
    tag = get_pretrained_cfg(*card.place.split("/"))
    hubs = [place.hub for place in card.downloads if place.hub]
    assert [tag["hf_hub"].rstrip("/")] == hubs
    for place in card.downloads:
        if place.url is not None:  # OpenAI's addresses have the hash in them
            assert place.url == tag["url"]
            assert place.sha256 in place.url
            assert place.mib
    assert sizes_of(open_clip.get_model_config(card.place.split("/")[0])) == {
        "embedding_dim": card.embedding_dim,
        "image_size": card.image_size,
        "context_length": card.context_length,
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_configuration_is_as_the_tag_was_trained(name: str) -> None:
    card = find_card(name)
    config = config_of(card)
    tag = get_pretrained_cfg(*card.place.split("/"))
    assert config["model_cfg"].get("quick_gelu", False) == tag.get("quick_gelu", False)
    assert config["preprocess_cfg"]["mean"] == tag["mean"]
    assert config["preprocess_cfg"]["resize_mode"] == tag["resize_mode"]
    json.dumps(config)


def test_openais_clips_have_quickgelu_and_laions_have_not() -> None:
    quick = {name for name in PUBLISHED if config_of(find_card(name))["model_cfg"].get("quick_gelu")}
    assert quick == {"RN50", "RN101", "ViT-B-16", "ViT-B-32", "ViT-L-14", "ViT-L-14-336"}


def test_open_clips_others_are_found_by_their_tag_and_what_it_lacks_is_told() -> None:
    assert downloads_of(find_card("open_clip:ViT-B-16/dfn2b"))[0].hub == "apple/DFN2B-CLIP-ViT-B-16"
    for name in ("open_clip:ViT-B-32/no-such-tag", "open_clip:No-Such/openai"):
        with pytest.raises(NotInOpenClip, match="open_clip has no"):
            downloads_of(find_card(name))


def test_no_name_is_of_two_models() -> None:
    names = [*cards.available(), *vqgan.available(), *min_dalle.available(), *unclip.available()]
    assert len(set(names)) == len(names)


def test_all_that_the_catalog_tells_is_there(tmp_path: Path) -> None:
    for entry in entries(tmp_path):
        told = entry.describe()
        assert told["description"].endswith(".")
        assert told["license"]
        assert told["attributions"]
        assert told["weight_bytes"] > 0
        assert told["memory"] > told["weight_bytes"] or entry.kind == "vqgan"
        assert not told["here"]
        assert Path(told["folder"]).parent == tmp_path
    json.dumps([entry.describe() for entry in entries(tmp_path)])


def test_every_hash_that_is_known_is_of_openai_and_all_others_say_that_they_are_not() -> None:
    known = {entry.name for entry in entries() for place in entry.downloads if place.sha256}
    assert known == {"RN50", "RN101", "ViT-B-16", "ViT-B-32", "ViT-L-14", "ViT-L-14-336"}
    assert find("imagenet-f16-16384").describe()["downloads"][0]["sha256"] is None
