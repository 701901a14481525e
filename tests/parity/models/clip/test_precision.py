"""`auto` takes the fastest precision that turns no embedding by much; what a device cannot do is refused."""

import pytest
import torch

from models.clip import precision
from models.clip.cards import find_card
from models.clip.encoder import OpenClipEncoder
from models.clip.precision import PrecisionUnsupported, pick_precision
from models.weights_io.card import WEIGHTS

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_cpu_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bf16, "avx2": True})
    assert pick_precision("auto", CPU) == expected
    assert pick_precision("auto", CPU, needs_fp32=True) == "fp32"


def test_auto_is_fp32_where_torch_does_not_say_what_the_cpu_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert pick_precision("auto", CPU) == "fp32"


def test_what_is_named_is_taken_whatever_the_card_says() -> None:
    for name in precision.DTYPES:
        assert pick_precision(name, CPU, needs_fp32=True) == name


@pytest.mark.parametrize(("name", "device"), [("int8", "cuda"), ("int8", "mps"), ("fp8", "cpu")])
def test_a_precision_that_a_device_has_not_is_refused_by_name(name: str, device: str) -> None:
    with pytest.raises(PrecisionUnsupported, match=name):
        pick_precision(name, torch.device(device))


def test_the_demo_models_need_fp32_and_get_it() -> None:
    assert find_card("demo-photo").needs_fp32
    assert OpenClipEncoder.load("demo-icons", WEIGHTS, "cpu", "auto").network.precision == "fp32"


def test_int8_makes_eight_bits_of_every_linear_layer_attention_included() -> None:
    network = OpenClipEncoder.load("demo-icons", WEIGHTS, "cpu", "int8").network
    kinds = {type(module) for module in network._model.modules()}
    assert not kinds & {torch.nn.Linear, torch.nn.MultiheadAttention}
    assert torch.ao.nn.quantized.dynamic.Linear in kinds
