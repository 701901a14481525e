"""Texts to the tokens of one CLIP: counted, refused when too long, never cut silently."""

import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from models.clip import TextTooLong

# open_clip's byte-pair tokenizer remembers every word it has met, for ever; past this many it forgets them
MAX_WORDS_KEPT = 50_000
MAX_TEXTS_KEPT = 4096

# Tokens of padding that cost as much as one more forward of a text tower (ViT-B/32's, on a CPU)
PADDING_OF_A_FORWARD = 50


class Tokens:
    """Makes and counts the tokens of texts. Any thread may call it.

    Args:
        tokenizer: one of open_clip's.
        context_length: tokens that the model reads, end tokens included.
    """

    def __init__(self, tokenizer: Any, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._known = lru_cache(MAX_TEXTS_KEPT)(self._ids)  # a text is counted, and then encoded
        self._lock = threading.Lock()  # neither kind of tokenizer is safe in several threads
        self._is_byte_pair = hasattr(
            tokenizer, "bpe"
        )  # CLIP's own; else a wrapper around one of transformers

    def count(self, text: str) -> int:
        """Tokens of a text, both end tokens included; if too long, some number that is too large."""
        with self._lock:
            return len(self._known(text))

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids; CLIP's own are not padded, others are to `context_length`, as they were trained.

        Raises:
            TextTooLong: one has more than `context_length` tokens.
        """
        with self._lock:
            rows = [list(self._known(text)) for text in texts]
            for text, row in zip(texts, rows, strict=True):
                if len(row) > self._context_length:
                    start = text if len(text) <= 40 else f"{text[:40]}…"
                    raise TextTooLong(
                        f"more than {self._context_length} tokens, which is all the model reads: {start!r}"
                    )
            if self._is_byte_pair or not texts:
                return rows
            padded: list[list[int]] = self._tokenizer(list(texts)).tolist()
            return padded

    def _ids(self, text: str) -> list[int]:
        """Token ids, end tokens included; stops soon after `context_length` of them."""
        if self._is_byte_pair:
            return self._byte_pair_ids(text)
        # one more than fits shows that it does not fit, whatever its length
        limited = self._tokenizer.tokenizer(
            self._tokenizer.clean_fn(text), truncation=True, max_length=self._context_length + 1
        )
        return list(limited.input_ids)

    def _byte_pair_ids(self, text: str) -> list[int]:
        """As `encode` of open_clip's SimpleTokenizer, but in bounded time.

        Its merging takes quadratic time in the length of a word: 2.5 s for 5,000 letters. A word of more than
        eight bytes per token of context is taken to be too long unmerged; real words have about four.
        """
        tokenizer = self._tokenizer
        if len(tokenizer.cache) > MAX_WORDS_KEPT:
            special = [tokenizer.decoder[token] for token in tokenizer.all_special_ids]
            tokenizer.cache = dict(zip(special, special, strict=True))
        ids: list[int] = [tokenizer.sot_token_id]
        for match in tokenizer.pat.finditer(tokenizer.clean_fn(text)):
            word = match.group().encode()
            if len(word) > 8 * self._context_length:
                return [*ids, *[0] * self._context_length]
            parts = tokenizer.bpe("".join(tokenizer.byte_encoder[byte] for byte in word))
            ids += [tokenizer.encoder[part] for part in parts.split(" ")]
            if len(ids) > self._context_length:
                break
        return [*ids, tokenizer.eot_token_id]


def alike(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Groups of texts to encode together, so that a long one does not have all others padded to its length.

    Args:
        lengths: of the texts, in tokens.
        most: texts in a group.

    Yields:
        Indexes into `lengths`; each is in one group.
    """
    group: list[int] = []
    padding = 0  # tokens
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group:
            more = len(group) * (lengths[index] - lengths[group[-1]])
            if len(group) == most or padding + more > PADDING_OF_A_FORWARD:
                yield group
                group, padding = [], 0
            else:
                padding += more
        group.append(index)
    if group:
        yield group
