"""Old pickled checkpoints become safetensors with the same tensors; a hostile one is refused, not run."""

import argparse
import hashlib
import os
import pickle
import subprocess
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from models.weights_io import (
    UnsafeCheckpoint,
    WeightsCorrupt,
    WeightsMissing,
    WeightsUnusable,
    load_tensors,
    save_tensors,
    sha256_of,
)
from models.weights_io.unpickle import convert, main

VQGAN = {
    "encoder.conv_in.weight": torch.arange(12.0).view(2, 6),
    "decoder.conv_out.bias": torch.arange(3.0),
    "quantize.embedding.weight": torch.arange(20.0).view(5, 4),
    "quant_conv.weight": torch.ones(4, 4),
    "post_quant_conv.weight": torch.ones(4, 4) * 2,
}
REST = {
    "loss.discriminator.main.0.weight": torch.zeros(3),
    "loss.perceptual_loss.net.slice1.0.weight": torch.zeros(3),
    "colorize": torch.zeros(1),
}


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Classes under the names that Lightning of 2021 had, so that real pickles name them."""

    def define(module: str, name: str, bases: tuple[type, ...] = ()) -> Any:
        made = type(name, bases, {"__module__": module})
        if module not in sys.modules or not hasattr(sys.modules[module], name):
            monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
        monkeypatch.setattr(sys.modules[module], name, made, raising=False)
        return made

    for package in ("pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.utilities"):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    return types.SimpleNamespace(
        checkpoint=define("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
        attributes=define("pytorch_lightning.utilities.parsing", "AttributeDict", (dict,)),
        logger=define("main", "ImageLogger"),
    )


def lightning_checkpoint(names: types.SimpleNamespace, state: dict[str, Tensor]) -> dict[str, Any]:
    callback = names.checkpoint()
    callback.best = 1.0
    return {
        "epoch": 3,
        "pytorch-lightning_version": "1.0.8",
        "callbacks": {names.checkpoint: {"best_model_score": torch.tensor(0.5)}, names.logger: callback},
        "optimizer_states": [{"state": defaultdict(list, {0: [torch.zeros(2)]})}],
        "hyper_parameters": names.attributes(lr=4.5e-6, namespace=argparse.Namespace(x=1)),
        "state_dict": OrderedDict(state),
    }


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        metadata: dict[str, str] = file.metadata()
        return metadata


def assert_same(expected: dict[str, Tensor], actual: dict[str, Tensor]) -> None:
    assert set(expected) == set(actual)
    for name, tensor in expected.items():
        assert torch.equal(tensor, actual[name]), name


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_a_lightning_checkpoint_keeps_the_vqgan_and_leaves_the_rest(
    lightning: types.SimpleNamespace, tmp_path: Path, zipped: bool
) -> None:
    source, target = tmp_path / "last.ckpt", tmp_path / "vqgan.safetensors"
    torch.save(lightning_checkpoint(lightning, VQGAN | REST), source, _use_new_zipfile_serialization=zipped)
    sha256 = sha256_of(source)
    metadata = convert(source, target)
    assert_same(VQGAN, load_tensors(target))
    expected = {"source": "last.ckpt", "source_sha256": sha256, "kind": "VQModel"}
    assert expected | {"n_embed": "5", "embed_dim": "4"} == metadata
    assert metadata | {"format": "pt"} == metadata_of(target)
    assert sha256 == sha256_of(source)


def test_it_converts_where_lightning_was_never_installed(
    lightning: types.SimpleNamespace, tmp_path: Path
) -> None:
    torch.save(lightning_checkpoint(lightning, VQGAN), tmp_path / "last.ckpt")
    # a process that cannot import the packages whose classes are named
    program = (
        "import sys; sys.modules['pytorch_lightning'] = None\n"
        "from models.weights_io.unpickle import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "last.ckpt"), str(tmp_path / "out.safetensors")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert f'"sha256": "{sha256_of(tmp_path / "out.safetensors")}"' in result.stdout
    assert_same(VQGAN, load_tensors(tmp_path / "out.safetensors"))


def test_a_vqgan_inside_a_transformer_is_taken_out(tmp_path: Path) -> None:
    state = {f"first_stage_model.{name}": tensor for name, tensor in (VQGAN | REST).items()}
    state |= {"transformer.head.weight": torch.zeros(2), "cond_stage_model.x": torch.zeros(2)}
    torch.save({"state_dict": state}, tmp_path / "coco.ckpt")
    convert(tmp_path / "coco.ckpt", tmp_path / "out.safetensors")
    assert_same(VQGAN, load_tensors(tmp_path / "out.safetensors"))


def test_a_gumbel_vqgan_is_told_by_its_codebook_and_the_encoder_may_stay_behind(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in VQGAN.items() if not name.startswith("quantize")}
    gumbel = {"quantize.embed.weight": torch.ones(8, 2), "quantize.proj.bias": torch.ones(8)}
    torch.save(state | gumbel, tmp_path / "gumbel.pt")
    metadata = convert(tmp_path / "gumbel.pt", tmp_path / "out.safetensors", dtype="fp16", decoder_only=True)
    assert (metadata["kind"], metadata["n_embed"], metadata["embed_dim"]) == ("GumbelVQ", "8", "2")
    tensors = load_tensors(tmp_path / "out.safetensors")
    assert {"decoder.conv_out.bias", "post_quant_conv.weight", *gumbel} == set(tensors)
    assert {torch.float16} == {tensor.dtype for tensor in tensors.values()}


def test_a_clip_keeps_all_its_tensors(tmp_path: Path) -> None:
    clip = {
        "logit_scale": torch.tensor(4.6),
        "visual.proj": torch.ones(2, 2),
        "positional_embedding": torch.ones(3),
    }
    torch.save(
        {"epoch": 1, "state_dict": {f"module.{name}": t for name, t in clip.items()}}, tmp_path / "a.pt"
    )
    assert convert(tmp_path / "a.pt", tmp_path / "out.safetensors")["kind"] == "CLIP"
    assert_same(clip, load_tensors(tmp_path / "out.safetensors"))


class Hostile:
    """A pickle that creates a file when it is loaded as pickles usually are."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


class HostileThroughBuiltins(Hostile):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__('os').mkdir({str(self.proof)!r})",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("hostile", [Hostile, HostileThroughBuiltins])
def test_a_hostile_pickle_is_refused_by_name_and_does_not_run(
    tmp_path: Path, hostile: type[Hostile], zipped: bool
) -> None:
    source, target, proof = tmp_path / "evil.ckpt", tmp_path / "out.safetensors", tmp_path / "proof"
    checkpoint = {"state_dict": VQGAN, "callbacks": hostile(proof)}
    torch.save(checkpoint, source, _use_new_zipfile_serialization=zipped)
    name = "mkdir" if hostile is Hostile else "eval"
    with pytest.raises(UnsafeCheckpoint, match=name):
        convert(source, target)
    assert not proof.exists()
    assert not target.exists()
    # the test can fail: loaded without care, the very same file does run
    torch.load(source, weights_only=False)
    assert proof.is_dir()


def test_a_plain_pickle_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Hostile(tmp_path / "proof")))
    with pytest.raises((UnsafeCheckpoint, WeightsUnusable)):
        convert(tmp_path / "evil.pkl", tmp_path / "out.safetensors")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", bytes([0xC6]) * 99, b"PK\x03\x04 cut short", b"\x80\x02}"]
)
def test_what_is_no_checkpoint_is_unusable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(WeightsUnusable, match=r"x\.ckpt") as refused:
        convert(tmp_path / "x.ckpt", tmp_path / "out.safetensors")
    assert "weights_only" not in str(refused.value)  # torch advises to load it without care
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("content", [{"state_dict": {"layer.weight": torch.ones(2)}}, torch.ones(2), [1, 2]])
def test_a_checkpoint_of_something_else_is_unusable(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(WeightsUnusable, match="neither a VQGAN"):
        convert(tmp_path / "other.ckpt", tmp_path / "out.safetensors")


def test_the_command_says_what_is_wrong_and_returns_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "absent.ckpt"), str(tmp_path / "out.safetensors")]) == 1
    assert "absent.ckpt is not there" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_whole_is_not_there_and_the_old_one_stays(tmp_path: Path) -> None:
    target = tmp_path / "weights.safetensors"
    save_tensors(target, {"a": torch.ones(2)}, {})
    before = target.read_bytes()
    with pytest.raises(Exception, match="meta"):
        save_tensors(target, {"a": torch.ones(2, device="meta")}, {})
    assert before == target.read_bytes()
    assert [target] == list(tmp_path.iterdir())


def test_tensors_that_share_memory_and_views_are_saved(tmp_path: Path) -> None:
    whole = torch.arange(6.0).view(2, 3)
    save_tensors(tmp_path / "a.safetensors", {"whole": whole, "turned": whole.T, "again": whole}, {"k": "v"})
    assert_same({"whole": whole, "turned": whole.T, "again": whole}, load_tensors(tmp_path / "a.safetensors"))


def test_loading_checks_the_hash_first(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(2)}, {})
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert torch.equal(torch.ones(2), load_tensors(path, right)["a"])
    with pytest.raises(WeightsCorrupt):
        load_tensors(path, "0" * 64)
    path.write_bytes(b"garbage")
    with pytest.raises(WeightsUnusable, match=r"a\.safetensors"):
        load_tensors(path)
    with pytest.raises(WeightsMissing):
        load_tensors(tmp_path / "absent.safetensors")
