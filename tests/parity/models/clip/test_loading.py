"""Loading says by name what is missing, corrupt or unknown, and changes nothing else in the process."""

import json
import shutil
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.clip import TextTooLong, UnknownClip, load
from models.clip.cards import find_card
from models.clip.encoder import OpenClipEncoder, pick_device
from models.clip.parts import write_whole
from models.weights_io import WeightsCorrupt, WeightsMissing, WeightsUnusable, sha256_of, write_sums
from models.weights_io.card import WEIGHTS


@pytest.fixture(scope="module")
def encoder() -> OpenClipEncoder:
    return OpenClipEncoder.load("demo-icons", WEIGHTS, "cpu")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder of weights of our own, to damage."""
    for folder in ("clip-icons", "clip-words"):
        shutil.copytree(WEIGHTS / folder, tmp_path / folder)
    return tmp_path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A folder of weights of our own, with one that open_clip itself loads."""
    write_whole(find_card("demo-icons"), WEIGHTS, tmp_path / "clip-icons")
    return tmp_path


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UnknownClip):
        load("nothing", WEIGHTS)


@pytest.mark.parametrize(
    "file",
    [
        "clip-icons/open_clip_config.json",
        "clip-icons/open_clip_model.safetensors",
        "clip-words/token_embedding.safetensors",
    ],
)
def test_a_missing_file_is_named(weights: Path, file: str) -> None:
    (weights / file).unlink()
    with pytest.raises(WeightsMissing, match=file):
        load("demo-icons", weights)


def test_a_flipped_byte_is_found_by_the_hash(weights: Path) -> None:
    path = weights / "clip-icons" / "open_clip_model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsCorrupt, match=find_card("demo-icons", weights).files[path.name]):
        load("demo-icons", weights)


def test_a_folder_without_a_card_that_is_cut_short_is_unusable(whole: Path) -> None:
    path = whole / "clip-icons" / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(WeightsUnusable, match="clip-icons"):
        load("local-dir:clip-icons", whole)


def test_weights_of_another_architecture_are_unusable(whole: Path) -> None:
    path = whole / "clip-icons" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["layers"] = 4
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsUnusable, match="Missing key"):
        load("local-dir:clip-icons", whole)


def test_a_folder_with_a_pickle_only_is_refused(whole: Path) -> None:
    folder = whole / "clip-icons"
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")
    with pytest.raises(WeightsMissing, match=r"no \.safetensors"):
        load("local-dir:clip-icons", whole)


def test_a_folder_is_loaded_by_its_path_too(whole: Path, encoder: OpenClipEncoder) -> None:
    other = load(f"local-dir:{whole / 'clip-icons'}", Path("/nowhere"), "cpu")
    np.testing.assert_array_equal(encoder.encode_texts(["a cat"]), other.encode_texts(["a cat"]))


def test_loading_and_encoding_leave_torch_and_the_warnings_as_they_were() -> None:
    rng, threads = torch.get_rng_state(), torch.get_num_threads()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder = load("demo-icons", WEIGHTS, "cpu", "bf16")
        pixels = encoder.preprocess(Image.new("RGB", (50, 40), "red"))[None]
        pixels.flags.writeable = False
        encoder.encode_images(pixels)
        encoder.encode_texts(["a red square"])
    assert not [str(warning.message) for warning in caught]
    assert torch.equal(rng, torch.get_rng_state())
    assert threads == torch.get_num_threads()
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_a_text_that_is_too_long_is_refused_not_cut(encoder: OpenClipEncoder) -> None:
    fits = " ".join(["cat"] * (encoder.context_length - 2))
    assert encoder.context_length == encoder.count_tokens(fits)
    encoder.encode_texts([fits])
    assert encoder.count_tokens(fits + " cat") > encoder.context_length
    with pytest.raises(TextTooLong, match=str(encoder.context_length)):
        encoder.encode_texts(["a cat", fits + " cat"])


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "cat " * 25_000, "猫" * 50_000, "🙂" * 25_000, "a1" * 50_000]
)
def test_a_hostile_text_is_counted_in_little_time(encoder: OpenClipEncoder, text: str) -> None:
    start = time.perf_counter()
    assert encoder.count_tokens(text) > encoder.context_length
    assert time.perf_counter() - start < 2  # 5,000 letters merged as one word took 2.5 s


def test_the_words_it_remembers_are_bounded(
    encoder: OpenClipEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.clip.tokens.MAX_WORDS_KEPT", 100)
    before = encoder.encode_texts(["a red heart"])
    for number in range(300):
        encoder.count_tokens(f"word{chr(97 + number % 26)}{chr(97 + number // 26)}")
    assert len(encoder.network.tokens._tokenizer.cache) <= 110
    np.testing.assert_array_equal(before, encoder.encode_texts(["a red heart"]))


def test_counting_and_preprocessing_are_safe_in_many_threads(encoder: OpenClipEncoder) -> None:
    texts = [f"a picture of number {number}" for number in range(200)]
    pictures = [Image.new("RGB", (60 + number, 50), (number, 0, 0)) for number in range(50)]
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(encoder.count_tokens, texts))
        pixels = list(pool.map(encoder.preprocess, pictures))
    assert [encoder.count_tokens(text) for text in texts] == counts
    for picture, mine in zip(pictures, pixels, strict=True):
        np.testing.assert_array_equal(encoder.preprocess(picture), mine)


def test_a_list_longer_than_one_forward_gives_a_row_each(
    encoder: OpenClipEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"number {number}" for number in range(10)]
    whole = encoder.encode_texts(texts)
    monkeypatch.setattr(encoder, "max_images", 3)
    monkeypatch.setattr(encoder, "max_texts", 3)
    np.testing.assert_allclose(whole, encoder.encode_texts(texts), atol=1e-6)
    assert encoder.encode_images(np.empty((0, 3, 128, 128), np.uint8)).shape == (0, encoder.dimension)


def test_the_device_of_a_name_is_that_device() -> None:
    assert torch.device("cpu") == pick_device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert expected == pick_device("auto").type


@pytest.mark.parametrize("name", ["ViT-B-32", "hf-hub:some-owner/some-model", "open_clip:ViT-B-32/openai"])
def test_what_was_not_fetched_is_missing_and_the_error_says_what_to_type(name: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=f"clipcanvas models pull {name}"):
        load(name, tmp_path, "cpu")


def test_what_was_changed_since_it_came_is_corrupt(whole: Path) -> None:
    shutil.copytree(whole / "clip-icons", whole / "ViT-B-32")
    file = whole / "ViT-B-32" / "open_clip_model.safetensors"
    write_sums(file.parent, {file.name: sha256_of(file)})
    load("ViT-B-32", whole, "cpu")
    write_sums(file.parent, {file.name: "0" * 64})
    with pytest.raises(WeightsCorrupt, match="0" * 64):
        load("ViT-B-32", whole, "cpu")
