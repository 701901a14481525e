"""Every CLIP card says what is true, and a name is found or refused without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from models.clip import UnknownClip
from models.clip.cards import SCHEMES, available, find_card
from models.weights_io import verify
from models.weights_io.card import WEIGHTS

DEMOS = ["demo-icons", "demo-photo"]


@pytest.mark.parametrize("name", available())
def test_a_card_says_all_that_a_client_is_told(name: str) -> None:
    card = find_card(name)
    assert name == card.name
    assert card.scheme in SCHEMES
    assert card.place
    assert card.description.endswith(".")
    assert card.license != "unknown"
    assert card.attributions
    assert all(template.count("{label}") == 1 for template in card.templates)
    assert None not in (card.embedding_dim, card.image_size, card.context_length)


@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_card_has_the_hash_of_every_file_and_the_sizes_of_its_configuration(name: str) -> None:
    card = find_card(name)
    folder = card.folder(WEIGHTS)
    assert {*folder.iterdir(), WEIGHTS / "clip-words" / "token_embedding.safetensors"} == {
        *card.paths(WEIGHTS)
    }
    for path, sha256 in card.paths(WEIGHTS).items():
        verify(path, sha256)
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    assert config["embed_dim"] == card.embedding_dim
    assert config["vision_cfg"]["image_size"] == card.image_size
    assert config["text_cfg"]["context_length"] == card.context_length


def test_the_demo_cards_attribute_each_set_whose_licence_asks_for_it() -> None:
    attributions = find_card("demo-icons").attributions
    for name in ("Twemoji", "EmojiOne", "Streamline"):
        assert any(name in line and "CC-BY-4.0" in line for line in attributions), name


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "",
        "../cards/demo-photo",
        "demo-photo.toml",
        "local-dir:",
        "open_clip:ViT-B-32",
        "http://x/y",
    ],
)
def test_a_name_that_is_no_model_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(UnknownClip, match="demo-icons, demo-photo"):
        find_card(name)


@pytest.mark.parametrize("name", ["hf-hub:laion/some-model", "open_clip:ViT-B-32/openai"])
def test_a_source_is_a_name_without_a_card(name: str) -> None:
    card = find_card(name)
    assert name == card.name == card.source
    assert card.templates
    assert card.embedding_dim is None


def test_all_demo_models_take_no_more_than_60_megabytes() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 60e6


def test_a_folder_is_a_name_and_its_configuration_gives_the_sizes() -> None:
    card = find_card(f"local-dir:{WEIGHTS / 'clip-photo'}")
    assert (card.embedding_dim, card.image_size, card.context_length) == (640, 192, 32)
    assert card.folder(Path("/elsewhere")) == WEIGHTS / "clip-photo"


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"model_cfg": {"embed_dim": 1}}'])
def test_a_folder_with_no_sensible_configuration_still_has_a_card(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "open_clip_config.json").write_text(content)
    assert find_card(f"local-dir:{tmp_path}").embedding_dim is None


@pytest.mark.parametrize(
    ("name", "folder"),
    [("ViT-B-32", "ViT-B-32"), ("hf-hub:laion/some-model", "hf-hub--laion--some-model")],
)
def test_a_model_is_here_when_its_folder_has_a_configuration(name: str, folder: str, tmp_path: Path) -> None:
    card = find_card(name, tmp_path)
    assert tmp_path / folder == card.folder(tmp_path)
    assert not card.is_here(tmp_path)
    card.folder(tmp_path).mkdir()
    (card.folder(tmp_path) / "open_clip_config.json").write_text("{}")
    assert card.is_here(tmp_path)


def test_a_card_among_the_weights_is_a_name_too(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "clip.toml").write_text('source = "local-dir:mine"\nembedding_dim = 7\n')
    assert find_card("mine", tmp_path).embedding_dim == 7
    assert "mine" in available(tmp_path)
    with pytest.raises(UnknownClip, match="mine"):
        find_card("nothing", tmp_path)


def test_cards_zero_shot_and_weights_errors_come_without_torch() -> None:
    program = (
        "import sys, models.weights_io, models.clip.cards, models.clip.tokens, models.clip.zero_shot\n"
        "models.clip.cards.find_card('demo-photo')\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
