"""A checkpoint in the layout of taming-transformers' Net2NetTransformer, converted, draws classes."""

import sys
from pathlib import Path

import pytest
import torch
import transformers  # noqa: F401 - as taming's module will find it

from models.catalog.convert import convert
from models.generators import complete, find
from models.networks.shared_networks import Networks
from models.networks.transformer import Transformer
from models.networks.vqgan import OWN_CARD, read_card
from models.requests.generator import Drawing
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.requests.request import InvalidRequest
from models.weights_io import WeightsUnusable, load_tensors, unpickle
from models.weights_io.card import WEIGHTS
from tests.support.weights import wild

SIDE, LENGTH = 8, 65  # of the grid of codes; a class and its codes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small VQGAN and taming's own GPT over its codes, as Lightning saves them."""
    with pytest.MonkeyPatch.context() as patch:
        # taming's module wants a name that transformers no longer has
        patch.setattr(sys.modules["transformers"], "top_k_top_p_filtering", None, raising=False)
        from taming.modules.transformer.mingpt import GPT
    torch.manual_seed(3)
    gpt = GPT(vocab_size=64, block_size=LENGTH, n_layer=2, n_head=2, n_embd=16)
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = {f"transformer.{name}": tensor for name, tensor in gpt.state_dict().items()}
    state |= {f"first_stage_model.{name}": tensor for name, tensor in wild.vqgan_state().items()}
    path = tmp_path_factory.mktemp("net2net") / "last.ckpt"
    torch.save({"epoch": 3, "global_step": 10, "state_dict": state, "optimizer_states": []}, path)
    return path


@pytest.fixture(scope="module")
def names(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> NetworkNames:
    weights = tmp_path_factory.mktemp("weights")
    for shared in ("clip-icons", "clip-words"):
        (weights / shared).symlink_to(WEIGHTS / shared)
    config = checkpoint.with_suffix(".yaml")
    wild.write_taming_yaml(config, net2net=True)
    convert(checkpoint, "own", weights, lambda *_: None, config=config)
    unpickle.convert(checkpoint, weights / "own" / "transformer.safetensors", transformer=True)
    with (weights / "own" / OWN_CARD).open("a") as card:
        card.write(
            '\n[transformer]\nfile = "own/transformer.safetensors"\n'
            f"width = 16\ndepth = 2\nheads = 2\nlength = {LENGTH}\nclasses = 5\n"
        )
    return NetworkNames(vqgan="own", weights=weights, device="cpu")


def drawn(names: NetworkNames, label: int) -> bytes:
    request = complete(
        names,
        generator="vqgan_transformer",
        prompts=parse("a cat"),
        seed=1,
        options={"label": label, "candidates": 2},
    )
    generator = find(request.generator).load(Networks(names))
    *_, last = generator(Drawing(request, seed=1))
    assert last.render().shape == (32, 32, 3)
    assert (last.index, last.total) == (SIDE**2, SIDE**2)
    return last.checkpoint()


def test_a_converted_transformer_draws_classes(names: NetworkNames) -> None:
    assert drawn(names, 1) == drawn(names, 1)
    assert drawn(names, 1) != drawn(names, 4)


def test_it_computes_what_the_checkpoint_does(checkpoint: Path, names: NetworkNames) -> None:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    inner = {key.removeprefix("transformer."): value for key, value in state.items() if "transformer." in key}
    ours = Transformer.read(load_tensors(names.weights / "own" / "transformer.safetensors"), heads=2)
    theirs = Transformer.read(inner, heads=2)  # of the same reader as in `test_transformer.py`
    tokens = torch.arange(LENGTH)[None] % 64
    assert torch.equal(ours(ours.tokens(tokens)), theirs(theirs.tokens(tokens)))


def test_a_class_that_it_does_not_know_is_refused(names: NetworkNames) -> None:
    assert read_card("own", names.weights).transformer is not None
    with pytest.raises(InvalidRequest, match="there are 5, from 0"):
        drawn(names, 5)


def test_a_checkpoint_without_a_transformer_says_so(tmp_path: Path) -> None:
    torch.save({"state_dict": wild.vqgan_state()}, tmp_path / "vqgan.ckpt")
    with pytest.raises(WeightsUnusable, match="no transformer over a VQGAN"):
        unpickle.convert(tmp_path / "vqgan.ckpt", tmp_path / "out.safetensors", transformer=True)
    assert not (tmp_path / "out.safetensors").exists()
