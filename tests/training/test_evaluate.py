"""Evaluation of models of any card, on any folder."""

import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from models import clip as clips
from models.networks import vqgan as vqgans
from models.weights_io.card import WEIGHTS
from training.evaluate import __main__ as evaluate
from training.evaluate import held_out
from training.evaluate.measures import accuracy, perplexity, psnr, recall
from training.nets import trunk


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of two labels, of a cat one of them on transparency."""
    place = tmp_path_factory.mktemp("photos")
    for name, pixels in {"cat": skimage.data.chelsea(), "cup_of_coffee": skimage.data.coffee()}.items():
        (place / name).mkdir()
        Image.fromarray(pixels).save(place / name / "photo.png")
    Image.fromarray(skimage.data.chelsea()).convert("RGBA").save(place / "cat/clear.webp")
    return place


def test_zero_shot_and_retrieval_tell_what_was_found(folder: Path) -> None:
    clip = clips.load("demo-photo", WEIGHTS)
    found = evaluate.labelled(folder)
    assert found[1:] == (["cat", "cup of coffee"], [0, 0, 1])
    rows = dict(evaluate.zero_shot(clip, *found, ["a photo of a {label}"]))
    assert rows["pictures"] == "3"
    assert rows["top-1"] == "100.0%"
    swapped = (found[0], found[1], [1, 1, 0])
    assert dict(evaluate.zero_shot(clip, *swapped, ["{label}"]))["top-1"] == "0.0%"
    rows = dict(evaluate.retrieval(clip, *found, ["a photo of a {label}"]))
    assert rows["text to picture, recall@1"] == "100.0%"


def test_r_precision_finds_prompts_by_file_names(tmp_path: Path) -> None:
    for name, pixels in {"a cat": skimage.data.chelsea(), "coffee": skimage.data.coffee()}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    clip = clips.load("demo-photo", WEIGHTS)
    rows = dict(evaluate.r_precision(clip, evaluate.files(tmp_path), ["{label}"]))
    assert (rows["a cat"], rows["R-precision@1"]) == ("1.", "100.0%")


def test_a_reconstruction_is_measured(folder: Path) -> None:
    vqgan = vqgans.load("demo", WEIGHTS)
    rows = dict(evaluate.reconstruction(vqgan, evaluate.opened(evaluate.files(folder)), 96))
    assert 18 < float(rows["PSNR at 96 pixels"].removesuffix(" dB")) < 30
    assert 50 < int(rows["codes used"].split()[0]) <= 3 * 144


def test_the_held_out_sets_make_a_table(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsure = timm.create_model("tf_efficientnet_lite0").eval()
    monkeypatch.setattr(trunk, "load", lambda: unsure)  # the trained one is a package of its own
    rows = dict(held_out.of_clip(clips.load("demo-icons", WEIGHTS), filled))
    assert rows["OpenMoji, right of 100 names"] == "100.0%"  # the red circle, of one name
    assert rows["photo of cat"] == "cat"
    assert rows["  first of ImageNet's 1,000 names as its classifier"] in ("0.0%", "100.0%")  # of one photo
    assert not any("it is sure of" in name for name in rows)

    def missing() -> None:
        raise trunk.PackageNotInstalled("it is not there")

    monkeypatch.setattr(trunk, "load", missing)
    assert not any(
        "as its classifier" in name for name, _ in held_out.of_clip(clips.load("demo-icons", WEIGHTS), filled)
    )
    rows = dict(held_out.of_vqgan(vqgans.load("demo", WEIGHTS), filled, sizes=(96,)))
    assert rows["openmoji, 96 pixels: pictures"] == "2"


def test_it_runs_as_a_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", "zero-shot", str(folder), "--clip", "demo-photo"])
    evaluate.main()
    assert "top-1" in capsys.readouterr().out


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(evaluate.NothingToMeasure, match="no picture under"):
        evaluate.labelled(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(evaluate.NothingToMeasure, match="pictures of no label"):
        evaluate.labelled(tmp_path)


def test_measures_count_what_they_say() -> None:
    scores = np.array([[3, 2, 1], [3, 2, 1], [3, 2, 1]], np.float32)
    assert accuracy(scores, np.array([0, 1, 2])) == pytest.approx(1 / 3)
    assert accuracy(scores, np.array([0, 1, 2]), best=2) == pytest.approx(2 / 3)
    # two labels, three pictures, the last two of the second label
    assert recall(np.array([[1, 2, 3], [1, 3, 2]], np.float32), np.array([0, 1, 1])) == 0.5
    half = np.full((2, 4, 4, 3), 0.5, np.float32)
    assert psnr(half, half + 0.1) == pytest.approx(20, abs=1e-3)
    assert perplexity(np.array([0, 1, 2, 3])) == pytest.approx(4)
    assert perplexity(np.array([5, 5])) == pytest.approx(1)


def test_a_vqgan_is_loaded_with_the_first_of_its_codes_or_those_of_a_file(tmp_path: Path) -> None:
    whole = evaluate.load_vqgan("demo", WEIGHTS)
    first = evaluate.load_vqgan("demo", WEIGHTS, codes=100)
    assert torch.equal(first.codebook, whole.codebook[:100])
    file = tmp_path / "first.safetensors"
    save_file(first.state_dict(), file)
    assert torch.equal(evaluate.load_vqgan("demo", WEIGHTS, file).codebook, first.codebook)
