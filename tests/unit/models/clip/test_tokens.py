"""Texts for a tokenizer of transformers' are counted, refused and padded as those for CLIP's own."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.clip import TextTooLong
from models.clip.tokens import Tokens, alike

END, PADDING = 1, 9


class WordTokenizer:
    """What open_clip's wrapper around a tokenizer of transformers offers; a token is a word's length."""

    context_length = 5

    def clean_fn(self, text: str) -> str:
        return text.lower().replace(".", "")

    def tokenizer(self, text: str, *, truncation: bool, max_length: int) -> SimpleNamespace:
        assert truncation
        return SimpleNamespace(input_ids=[*map(len, text.split()[: max_length - 1]), END])

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        rows = [[*map(len, self.clean_fn(text).split()), END] for text in texts]
        return np.array([row + [PADDING] * (self.context_length - len(row)) for row in rows])


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(WordTokenizer(), WordTokenizer.context_length)


def test_tokens_are_counted_after_cleaning(tokens: Tokens) -> None:
    assert [tokens.count(text) for text in ("", "a cat .", "one two three four")] == [1, 3, 5]


def test_rows_are_padded_as_the_tokenizer_pads_them(tokens: Tokens) -> None:
    assert tokens(["a cat", "bird"]) == [[1, 3, END, PADDING, PADDING], [4, END, PADDING, PADDING, PADDING]]
    assert tokens([]) == []


@pytest.mark.parametrize("words", [5, 6, 10_000])
def test_a_text_that_would_be_cut_is_refused(tokens: Tokens, words: int) -> None:
    assert tokens.count("x " * words) > 5
    with pytest.raises(TextTooLong, match="more than 5 tokens"):
        tokens(["fits", "x " * words])


def test_a_long_text_is_encoded_apart_from_short_ones() -> None:
    assert list(alike([5, 77, 6, 5, 77], most=64)) == [[0, 3, 2], [1, 4]]


def test_texts_of_nearly_one_length_are_encoded_together_and_in_bounded_groups() -> None:
    groups = list(alike([7, 8, 7, 9, 8] * 4, most=6))
    assert sorted(index for group in groups for index in group) == list(range(20))
    assert [len(group) for group in groups] == [6, 6, 6, 2]
    assert list(alike([], most=6)) == []


def test_what_is_kept_of_a_text_is_not_what_callers_get() -> None:
    tokens = Tokens(WordTokenizer(), WordTokenizer.context_length)
    tokens(["a cat"])[0].clear()
    assert tokens.count("a cat") == 3
