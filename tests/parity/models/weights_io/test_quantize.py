"""Weights in 8 bits are as near as half a step, and what is not packed stays as it is."""

from pathlib import Path

import torch

from models.weights_io import load_tensors, save_tensors
from models.weights_io.quantize import pack, unpack


def test_a_packed_tensor_is_as_near_as_half_a_step_of_its_row(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 8, 3, 3, generator=rng) * torch.logspace(-3, 3, 50).view(-1, 1, 1, 1)
    rows[7] = 0
    path = tmp_path / "packed.safetensors"
    save_tensors(path, pack({"rows": rows}, lambda name: True), {})
    assert path.stat().st_size < rows.numel() + 50 * 4 + 500
    whole = load_tensors(path)
    assert whole.keys() == {"rows"}
    steps = rows.abs().amax((1, 2, 3), keepdim=True) / 127
    assert ((whole["rows"] - rows).abs() <= 0.501 * steps).all()
    assert whole["rows"].dtype == torch.float32


def test_only_long_rows_that_are_chosen_are_packed() -> None:
    tensors = {
        "long": torch.randn(4, 100),
        "other": torch.randn(4, 100),
        "short": torch.randn(4, 9),
        "bias": torch.randn(100),
        "steps": torch.tensor(3),
    }
    packed = pack(tensors, lambda name: name != "other")
    kinds = {name: tensor.dtype for name, tensor in packed.items()}
    half = torch.float16
    assert kinds == {
        "long": torch.int8,
        "long.scale": torch.float32,
        "other": half,
        "short": half,
        "bias": half,
        "steps": torch.int64,
    }
    assert unpack(packed).keys() == tensors.keys()


def test_what_was_never_packed_is_as_it_was() -> None:
    tensors = {"norm.scale": torch.ones(3), "whole": torch.ones(2, 2)}
    assert unpack(tensors) == tensors
