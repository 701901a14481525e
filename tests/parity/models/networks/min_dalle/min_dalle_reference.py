"""What min-dalle itself computes of small random weights: writes what `test_min_dalle.py` compares with.

    pip install min-dalle==0.4.11 && python -m tests.parity.models.networks.min_dalle.min_dalle_reference

min-dalle is no requirement of the tests: importing it switches autograd off in the whole process.
"""

from pathlib import Path

import numpy as np
import torch
from min_dalle.models import DalleBartDecoder, DalleBartEncoder, VQGanDetokenizer
from min_dalle.text_tokenizer import TextTokenizer

from tests.support.weights import wild

EXPECTED = Path(__file__).with_name("min_dalle_expected.npz")
TEXTS = ["a red heart", "A Red HEART, cat", "cooool cat", "un œuf é", "🐱 red", "heartheart  x", "z9"]
GUIDANCE = 3
CODES = 16 * 16


def main() -> None:
    """Write the file."""
    tokenizer = TextTokenizer(wild.min_dalle_tokens(), wild.MERGES)
    rows = [tokenizer.tokenize(text) for text in TEXTS]
    with torch.no_grad():
        logits, chosen = _drawn(rows[0])
        picture = _picture()
    tokens = {f"tokens-{index}": np.array(row) for index, row in enumerate(rows)}
    np.savez_compressed(EXPECTED, logits=logits[::16], chosen=chosen, picture=picture, **tokens)


def _drawn(tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits (256, 2, codes) without and with a text, and the likeliest codes, guided: (256,)"""
    card = wild.min_dalle_card()
    sizes = {
        "attention_head_count": card.heads,
        "embed_count": card.width,
        "glu_embed_count": card.middle,
        "layer_count": card.depth,
        "device": "cpu",
    }
    encoder = DalleBartEncoder(text_token_count=card.words, text_vocab_count=card.vocabulary, **sizes)
    decoder = DalleBartDecoder(image_vocab_count=card.config.n_embed + 31, **sizes)
    for network, state in zip((encoder, decoder), wild.min_dalle_states(), strict=True):
        network.load_state_dict(state)
        network.eval()
    text = torch.ones(2, card.words, dtype=torch.long)
    text[0, :2] = torch.tensor([tokens[0], tokens[-1]])
    text[1, : len(tokens)] = torch.tensor(tokens)
    known = encoder(text)
    mask = text.not_equal(1)[:, None, None, :]
    memory = torch.zeros(card.depth, 4, CODES, card.width)
    code, found, chosen = torch.tensor([[card.config.n_embed]]), [], []
    for place in range(CODES):
        logits, memory = decoder(
            attention_mask=mask,
            encoder_state=known,
            attention_state=memory,
            prev_tokens=code,
            token_index=torch.tensor([place]),
        )
        both = logits[:, -1, : card.config.n_embed]
        code = (both[0] * (1 - GUIDANCE) + both[1] * GUIDANCE).argmax().view(1, 1)
        found.append(both.numpy())
        chosen.append(int(code))
    return np.stack(found), np.array(chosen)


def _picture() -> np.ndarray:
    """What its VQGAN, which has one size, makes of codes 0, 64, 128, …: (16, 16, 3) means in [0, 1]"""
    detokenizer = VQGanDetokenizer().eval()
    detokenizer.load_state_dict(wild.random_state(detokenizer.state_dict(), 3, 0.02))
    for module in detokenizer.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.eps = 1e-6  # as taming-transformers trained it; min-dalle leaves torch's 1e-5
    codes = (torch.arange(CODES) * 64).view(1, -1)
    picture = detokenizer(False, codes) / 255  # (256, 256, 3)
    return picture.view(16, 16, 16, 16, 3).mean((1, 3)).numpy()


if __name__ == "__main__":
    main()
