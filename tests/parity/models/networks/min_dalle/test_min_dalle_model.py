"""Our DALL-E mini computes what min-dalle does, with and without a cache, and draws as others do."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.catalog.__main__ import main as catalog
from models.generators import complete, find
from models.networks.autoregressive import Choice, Conditioning, Sampler
from models.networks.min_dalle import read_card
from models.networks.min_dalle.bpe import Tokenizer
from models.networks.min_dalle.min_dalle_model import MinDalle, TextTooLong
from models.networks.shared_networks import Networks
from models.networks.vqgan.vqgan_model import Vqgan
from models.requests.checkpoint import CheckpointUnusable
from models.requests.generator import Drawing, GenerationError
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.requests.request import Prompt
from models.weights_io import load_tensors, unpickle
from models.weights_io.card import WEIGHTS
from tests.support.weights import wild

LIKELIEST = Choice(temperature=1, top_k=1, top_p=1)
NO_CODES = torch.empty(0, dtype=torch.long)
# as in min_dalle_reference.py, which cannot be imported without min-dalle
TEXTS = ["a red heart", "A Red HEART, cat", "cooool cat", "un œuf é", "🐱 red", "heartheart  x", "z9"]


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """What min-dalle computes: `min_dalle_reference.py` writes it."""
    with np.load(Path(__file__).with_name("min_dalle_expected.npz")) as file:
        return dict(file)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> NetworkNames:
    """A small min-dalle, converted from the repository's layout."""
    weights = tmp_path_factory.mktemp("weights")
    for folder in ("clip-icons", "clip-words", "vqgan"):
        (weights / folder).symlink_to(WEIGHTS / folder)
    wild.write_min_dalle(weights / "repository")
    wild.write_min_dalle_card(weights)
    assert catalog([f"--weights={weights}", "convert", str(weights / "repository"), "tiny"]) == 0
    return NetworkNames(min_dalle="tiny", weights=weights, device="cpu")


@pytest.fixture(scope="module")
def networks(names: NetworkNames) -> Networks:
    return Networks(names)


@pytest.fixture(scope="module")
def model(networks: Networks) -> MinDalle:
    return networks.min_dalle()


def asked(names: NetworkNames, prompt: Any = "a red heart", **fields: Any) -> Any:
    fields["options"] = {"candidates": 3} | fields.get("options", {})
    prompts = parse(prompt) if isinstance(prompt, str) else prompt
    return complete(names, generator="min_dalle", prompts=prompts, seed=3, **fields)


def steps(networks: Networks, request: Any, checkpoint: bytes | None = None) -> Any:
    generator = find("min_dalle").load(networks)
    return generator(Drawing(request, seed=request.seed, resume_from=checkpoint))


def likeliest(conditioning: Conditioning, number: int = 1) -> torch.Tensor:
    """The likeliest codes in a row, (N, 256)"""
    sampler = Sampler(conditioning, number=number, length=256, kept=NO_CODES, choice=LIKELIEST, seed=0)
    with torch.no_grad():
        for _ in range(256):
            sampler.next()
    return sampler.codes


@pytest.mark.parametrize("index", range(len(TEXTS)))
def test_texts_become_the_tokens_of_min_dalle(expected: dict[str, np.ndarray], index: int) -> None:
    tokenizer = Tokenizer(wild.min_dalle_tokens(), [tuple(merge.split()) for merge in wild.MERGES])
    assert expected[f"tokens-{index}"].tolist() == tokenizer.encode(TEXTS[index])


def test_it_expects_the_codes_that_min_dalle_expects(
    expected: dict[str, np.ndarray], model: MinDalle
) -> None:
    """In fp32; a sum of matrices in another order is all that differs."""
    conditioning = model.condition_on_texts(["a red heart"], [1], 3)
    reading, logits = conditioning.transformer, []
    cache = reading.cache(2)
    inputs = conditioning.conditions.before
    with torch.no_grad():
        for code in expected["chosen"]:
            logits.append(reading(inputs, cache)[:, -1])
            inputs = reading.tokens(torch.tensor([[code], [code]]))
    found = torch.stack(logits[::16]).numpy()
    np.testing.assert_allclose(expected["logits"], found, atol=1e-4)
    assert expected["chosen"].tolist() == likeliest(conditioning)[0].tolist()


def test_with_a_cache_it_expects_what_it_does_without(model: MinDalle) -> None:
    conditioning = model.condition_on_texts(["a red heart", "a cat"], [1, 0.5], 3)
    inputs = torch.cat(
        [conditioning.conditions.before, model.decoder.embed_tokens(torch.arange(21).view(3, 7))], 1
    )
    with torch.no_grad():
        whole = conditioning.transformer(inputs, conditioning.transformer.cache(3))
        for pieces in ([1] * 8, [3, 1, 4]):
            cache = conditioning.transformer.cache(3)
            found = torch.cat(
                [conditioning.transformer(piece, cache) for piece in inputs.split(pieces, 1)], 1
            )
            torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


def test_pictures_that_grow_side_by_side_read_their_text_as_one_alone(model: MinDalle) -> None:
    conditioning = model.condition_on_texts(["a red heart"], [1], 3)
    assert likeliest(conditioning, number=3).tolist() == 3 * likeliest(conditioning).tolist()


def test_the_vqgan_of_real_size_paints_what_min_dalle_paints(
    expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Its pictures are in [0, 1], and taming's in [-1, 1]."""
    config = read_card("min-dalle-mini").config
    with torch.device("meta"):
        shapes = dict(Vqgan(config, "VQModel").state_dict())
    shapes["embedding.weight"] = shapes["quantize.embedding.weight"]
    kept = ("decoder.", "embedding.", "post_quant_conv.")
    state = wild.random_state({key: t for key, t in shapes.items() if key.startswith(kept)}, 3, 0.02)
    torch.save(state, tmp_path / "detoker.pt")
    del state
    assert unpickle.convert(tmp_path / "detoker.pt", tmp_path / "vqgan")["kind"] == "VQModel"
    vqgan = Vqgan(config, "VQModel")
    vqgan.read(load_tensors(tmp_path / "vqgan"))
    with torch.no_grad():
        codes = (torch.arange(256) * 64).view(1, 16, 16)
        picture = vqgan.decode(vqgan.lookup(codes)).clamp(0, 1)
    means = torch.nn.functional.avg_pool2d(picture, 16)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(expected["picture"], means, atol=1e-3)


def test_a_drawing_goes_on_from_any_checkpoint_to_the_same_bytes(
    networks: Networks, names: NetworkNames
) -> None:
    request = asked(names)
    whole = list(steps(networks, request))
    assert [(step.index, step.total) for step in whole] == [(index, 256) for index in range(1, 257)]
    assert whole[-1].render().shape == (64, 64, 3)
    assert -1 <= whole[-1].score() <= 1
    for index in (1, 130, 255):
        rest = list(steps(networks, request, whole[index - 1].checkpoint()))
        assert [step.index for step in rest] == list(range(index + 1, 257))
        assert rest[-1].render().tobytes() == whole[-1].render().tobytes()
        assert rest[-1].score() == whole[-1].score()
    with pytest.raises(CheckpointUnusable):
        steps(networks, asked(names, "a cat"), whole[0].checkpoint())


def test_a_picture_grows_row_by_row(networks: Networks, names: NetworkNames) -> None:
    for step in itertools.islice(steps(networks, asked(names)), 39, 40):
        picture = step.render()
    # 40 of 256 codes: two rows of sixteen, and eight; what is not drawn is gray
    assert (picture[12:] == 230).all()
    assert (picture[8:12, 32:] == 230).all()
    assert not (picture[:8] == 230).all()


def test_texts_weights_and_guidance_change_what_is_drawn(networks: Networks, names: NetworkNames) -> None:
    one = {"candidates": 1}
    drawn = {
        list(steps(networks, request))[-1].checkpoint()[-2048:]
        for request in (
            asked(names, options=one),
            asked(names, "a cat", options=one),
            asked(names, "a red heart | a cat:-0.5", options=one),
            asked(names, options=one | {"guidance": 1}),
            asked(names, options=one | {"guidance": 0}),
        )
    }
    assert len(drawn) == 5


def test_without_guidance_the_text_makes_no_difference(model: MinDalle) -> None:
    assert torch.equal(
        *(likeliest(model.condition_on_texts([text], [1], 0)) for text in ("a red heart", "a cat"))
    )


def test_a_text_longer_than_it_reads_is_refused(
    networks: Networks, names: NetworkNames, model: MinDalle
) -> None:
    with pytest.raises(TextTooLong, match="18 tokens, and tiny reads 16"):
        model.condition_on_texts(["a a a a a a a a"], [1], 3)
    with pytest.raises(GenerationError, match="the prompt is too long"):
        steps(networks, asked(names, (Prompt(text="a a a a a a a a"),)))


def test_in_bf16_it_expects_about_the_same(names: NetworkNames, model: MinDalle) -> None:
    halved = Networks(NetworkNames(min_dalle="tiny", weights=names.weights, device="cpu", dtype="bf16"))
    coarse, fine = (
        conditioning.transformer(conditioning.conditions.before, conditioning.transformer.cache(2))
        for conditioning in (
            networks.condition_on_texts(["a red heart"], [1], 3) for networks in (halved.min_dalle(), model)
        )
    )
    assert coarse.dtype == torch.bfloat16
    assert (coarse - fine).abs().max() < 0.1 * fine.std()
    assert (torch.cat([coarse.float(), fine]).flatten(1)).corrcoef()[0, 2] > 0.99
