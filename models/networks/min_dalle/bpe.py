"""Texts to the tokens that DALL-E mini reads: byte pairs as BART has them, of lower-case ASCII.

Sennrich et al. 2016, https://arxiv.org/abs/1508.07909. Emoji are read by name, other characters left out.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import emoji

from models.weights_io import WeightsUnusable

_SPACE = "Ġ"  # what begins a word in GPT-2's vocabulary of bytes
_START, _END, _UNKNOWN = "<s>", "</s>", "<unk>"

PAD = 1
"""The token after a text's end, as in all of BART's vocabularies."""


def readable(text: str) -> str:
    """What is read of a text."""
    named = emoji.demojize(text, delimiters=("", ""))
    return " ".join(named.lower().encode("ascii", "ignore").decode().split())


def read_vocabulary(path: Path, size: int) -> dict[str, int]:
    """The numbers of tokens, of BART's `vocab.json`.

    Args:
        size: numbers that there are.

    Raises:
        WeightsUnusable: it is no such file.
    """
    try:
        numbers = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsUnusable(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(numbers, dict) or not all(type(n) is int and 0 <= n < size for n in numbers.values()):
        raise WeightsUnusable(f"{path} does not number tokens from 0 to {size - 1}")
    if absent := [token for token in (_START, _END, _UNKNOWN) if token not in numbers]:
        raise WeightsUnusable(f"{path} has no {', '.join(absent)}")
    return numbers


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Pairs of parts that become one, the first before the others, of BART's `merges.txt`.

    Raises:
        WeightsUnusable: it is no such file.
    """
    try:
        lines = path.read_text("utf-8").split("\n")[1:]  # the first says the version
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsUnusable(f"{path} cannot be read as text: {error}") from error
    pairs = [tuple(line.split()) for line in lines if line]
    if not all(len(pair) == 2 for pair in pairs):
        raise WeightsUnusable(f"{path} is not of pairs, one on a line")
    return [(first, second) for first, second in pairs]


class Tokenizer:
    """Makes tokens of texts.

    Args:
        vocabulary: as of `read_vocabulary`.
        merges: as of `read_merges`.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
        self._vocabulary = vocabulary
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}

    @property
    def nothing(self) -> list[int]:
        """The tokens of no text."""
        return [self._vocabulary[_START], self._vocabulary[_END]]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, both end tokens included."""
        unknown = self._vocabulary[_UNKNOWN]
        start, end = self.nothing
        parts = (part for word in readable(text).split() for part in self._parts(word))
        return [start, *(self._vocabulary.get(part, unknown) for part in parts), end]

    def _parts(self, word: str) -> list[str]:
        parts = [_SPACE, *word]
        while True:
            pairs = list(pairwise(parts))
            known = [pair for pair in pairs if pair in self._ranks]
            if not known:
                return parts
            place = pairs.index(min(known, key=self._ranks.__getitem__))
            parts[place : place + 2] = ["".join(pairs[place])]
