"""The transformer computes what taming's does, with and without a cache; codes are chosen as they should."""

import importlib
from types import SimpleNamespace

import pytest
import torch

from models.networks.autoregressive import (
    Choice,
    Conditioning,
    Conditions,
    Sampler,
    choose,
    condition_on_class,
)
from models.networks.transformer import Transformer

ALL = Choice(temperature=1, top_k=0, top_p=1)


@pytest.fixture(scope="module")
def network() -> Transformer:
    return small(seed=0)


@pytest.fixture
def tamings(monkeypatch):
    """taming-transformers' GPT; its module wants a name that transformers no longer has."""
    # the module that is imported now: another test may have had it imported anew
    transformers = importlib.import_module("transformers")
    monkeypatch.setattr(transformers, "top_k_top_p_filtering", None, raising=False)
    from taming.modules.transformer.mingpt import GPT

    torch.manual_seed(3)
    gpt = GPT(vocab_size=11, block_size=10, n_layer=2, n_head=4, n_embd=32).eval()
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return gpt


def small(*, seed: int, vocabulary: int = 9, length: int = 8) -> Transformer:
    torch.manual_seed(seed)
    network = Transformer(vocabulary=vocabulary, length=length, width=16, depth=2, heads=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval().requires_grad_(False)


def sampler(network: Transformer, *, number: int = 3, seed: int = 5, **fields) -> Sampler:
    fields = {"kept": torch.empty(0, dtype=torch.long), "choice": ALL, "length": 6} | fields
    return Sampler(condition_on_class(network, 1), number=number, seed=seed, **fields)


def finished(sampler: Sampler, length: int = 6) -> torch.Tensor:
    while sampler.codes.shape[1] < length:
        sampler.next()
    return sampler.codes


def test_it_computes_what_tamings_does(tamings):
    """In fp32; a sum of matrices in another order is all that differs."""
    ours = Transformer.read(tamings.state_dict(), heads=4)
    tokens = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, _ = tamings(tokens)
        torch.testing.assert_close(ours(ours.tokens(tokens)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pieces", [[1] * 8, [3, 1, 4], [8]])
def test_with_a_cache_it_computes_what_it_does_without(network, pieces):
    inputs = network.tokens(torch.arange(16).view(2, 8) % 9)
    cache = network.cache(2)
    found = torch.cat([network(piece, cache) for piece in inputs.split(pieces, 1)], 1)
    torch.testing.assert_close(found, network(inputs), atol=1e-5, rtol=1e-5)


def test_the_likeliest_codes_in_a_row_are_those_of_a_plain_loop(network):
    likeliest = Choice(temperature=1, top_k=1, top_p=1)
    tokens = torch.tensor([[1]])
    for _ in range(6):
        tokens = torch.cat([tokens, network(network.tokens(tokens))[:, -1:].argmax(-1)], 1)
    found = finished(sampler(network, number=1, choice=likeliest))
    assert tokens[0, 1:].tolist() == found[0].tolist()


def test_a_seed_gives_the_same_pictures_however_many_grow_beside_them(network):
    assert torch.equal(finished(sampler(network)), finished(sampler(network)))
    assert torch.equal(finished(sampler(network, number=2)), finished(sampler(network, number=5))[:2])
    assert not torch.equal(finished(sampler(network)), finished(sampler(network, seed=6)))


def test_what_was_chosen_before_an_interruption_leads_to_the_same_rest(network):
    whole = finished(sampler(network))
    again = sampler(network)
    for place in range(4):
        again.next(whole[:, place])
    assert torch.equal(whole, finished(again))


def test_what_is_kept_is_where_all_pictures_begin(network):
    kept = torch.tensor([4, 2, 7])
    found = finished(sampler(network, kept=kept))
    assert (found[:, :3] == kept).all()
    # and is what the others go on from
    assert not torch.equal(found[:, 3:], finished(sampler(network, kept=torch.tensor([1, 1, 1])))[:, 3:])


def test_guidance_goes_from_what_is_likely_without_a_text_towards_it(network):
    """Without the cache: the same sums, written down."""
    before = network.tokens(torch.tensor([[1], [2]]))
    bias = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    beside = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(1))
    conditioning = Conditioning(network, Conditions(before, beside, bias), torch.tensor([-2.0, 3.0]))
    likeliest = Choice(temperature=1, top_k=1, top_p=1)
    found = finished(
        Sampler(
            conditioning, number=1, length=6, kept=torch.empty(0, dtype=torch.long), choice=likeliest, seed=0
        )
    )
    codes = torch.empty(1, 0, dtype=torch.long)
    for place in range(6):
        seen = torch.cat([before, network.tokens(codes).expand(2, -1, -1)], 1) + beside[:, : place + 1]
        without, text = network(seen)[:, -1] + bias[:, place]
        codes = torch.cat([codes, (without + 3 * (text - without)).argmax().view(1, 1)], 1)
    assert codes.tolist() == found.tolist()


def test_codes_are_chosen_as_often_as_they_are_likely():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, -1)
    chances = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    shares = choose(logits, chances, ALL).bincount(minlength=4) / 4000
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (SimpleNamespace(temperature=1, top_k=2, top_p=1), {0, 1}),
        (SimpleNamespace(temperature=1, top_k=0, top_p=0.6), {0, 1}),
        (SimpleNamespace(temperature=1, top_k=0, top_p=0.4), {0}),
        (SimpleNamespace(temperature=0.01, top_k=0, top_p=1), {0}),
        (SimpleNamespace(temperature=10, top_k=0, top_p=1), {0, 1, 2, 3}),
    ],
)
def test_only_likely_codes_are_chosen(choice, chosen):
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(400, -1)
    chances = torch.linspace(0, 1 - 1e-6, 400)
    assert set(choose(logits, chances, choice).tolist()) == chosen
