"""A small DALL-E: one transformer reads a text and goes on with the codes of a picture that shows it.

After Ramesh et al. 2021, https://arxiv.org/abs/2102.12092, on a VQGAN's codes. To learn from few pictures it
stands on what other networks know: words are a CLIP's tokens with its vectors, that CLIP's embedding of the
whole text is where the picture begins, and the VQGAN's prior tells of each place which codes are likely; the
transformer makes one picture of it. Texts themselves are not learned to be predicted.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.networks.autoregressive import Conditions
from models.networks.transformer import Transformer

WORDS = 16
"""Tokens of a text that a new Dalle reads one by one."""


class Dalle(nn.Module):
    """The transformer and what embeds texts for it. Sequences are: words, the picture's beginning, its codes.

    Args:
        transformer: of the first codes of the codebook. Its length is that of the words and of all codes.
        side: of the square grid of codes.
        word_width: of the CLIP's token vectors.
        dimension: of the CLIP's embeddings.

    Attributes:
        words: tokens of a text that are read one by one; those after them count in its embedding alone.
    """

    def __init__(self, transformer: Transformer, *, side: int, word_width: int, dimension: int) -> None:
        super().__init__()
        width, words = transformer.width, transformer.length - side * side
        self.transformer, self.side, self.words = transformer, side, words
        self.word = nn.Linear(word_width, width)
        self.pads = nn.Parameter(torch.zeros(words, width))  # where the text is over
        self.whole = nn.Linear(dimension, 2 * width)  # where the picture begins, and beside each code
        self.sketch = nn.Linear(width, width)
        self.nothing = nn.Parameter(torch.zeros(2 * width))  # no text, for guidance

    @classmethod
    def read(cls, weights: Mapping[str, Tensor], heads: int) -> "Dalle":
        """A frozen one of a checkpoint's tensors; its sizes are those of the tensors."""
        tensors = {name: value.float() for name, value in weights.items()}
        prefix = "transformer."
        transformer = Transformer.read(
            {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)},
            heads,
        )
        dalle = cls(
            transformer,
            side=round((transformer.length - len(tensors["pads"])) ** 0.5),
            word_width=tensors["word.weight"].shape[1],
            dimension=tensors["whole.weight"].shape[1],
        )
        dalle.load_state_dict(tensors)
        return dalle.eval().requires_grad_(False)

    def conditions(self, words: Sequence[Tensor], embeddings: Tensor, likely: Tensor) -> Conditions:
        """What the transformer is conditioned on for texts.

        Args:
            words: vectors of each text's tokens, (L, word_width); of no token: there is no text.
            embeddings: of the texts, (P, dimension) of unit length.
            likely: the prior's logits of each place, (P, codes, side, side).
        """
        rows = [
            torch.cat([self.word(row[: self.words]), self.pads[min(len(row), self.words) :]]) for row in words
        ]
        has_text = torch.tensor([len(row) > 0 for row in words], device=embeddings.device)[:, None, None]
        wholes = self.whole(embeddings * embeddings.shape[1] ** 0.5)[:, None]
        begin, beside = torch.where(has_text, wholes, self.nothing).chunk(2, -1)
        odds = likely.flatten(2).transpose(1, 2).log_softmax(-1)
        # of the sketch, the codes that are expected at each place
        beside = beside + has_text * self.sketch(odds.exp() @ self.transformer.tokens.weight.to(odds))
        return Conditions(torch.cat([torch.stack(rows), begin], 1), beside, has_text * odds)

    def forward(self, known: Conditions, codes: Tensor) -> Tensor:
        """Logits of pictures' codes, each seeing those before it: (P, side²) -> (P, side², codes)"""
        assert known.beside is not None
        assert known.bias is not None
        seen = torch.cat([known.before[:, -1:], self.transformer.tokens(codes[:, :-1])], 1) + known.beside
        logits: Tensor = self.transformer(torch.cat([known.before[:, :-1], seen], 1))
        return logits[:, self.words :] + known.bias
