"""DALL-E mini's network: an encoder reads a text, a decoder expects the codes of a picture that shows it.

BART (Lewis et al. 2019, https://arxiv.org/abs/1910.13461) with gated feed-forward parts (Shazeer 2020,
https://arxiv.org/abs/2002.05202) and norms before and after each part (Shleifer et al. 2021,
https://arxiv.org/abs/2110.09456), without biases; the VQGAN that makes pictures of the codes is taming's.
Modules are named as the tensors of https://huggingface.co/kuprel/min-dalle.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.autoregressive import Conditioning, Conditions, guided
from models.networks.min_dalle import DECODER, DETOKER, ENCODER, MERGES, VOCABULARY, Card
from models.networks.min_dalle.bpe import PAD, Tokenizer, read_merges, read_vocabulary
from models.networks.transformer import Cache, attend
from models.networks.vqgan.vqgan_model import Vqgan, WeightsMismatch
from models.weights_io import WeightsUnusable, differences, load_tensors


class TextTooLong(ValueError):
    """A text has more tokens than the encoder reads."""


class MinDalle:
    """A frozen model with its tokenizer and its VQGAN."""

    def __init__(
        self, card: Card, tokenizer: Tokenizer, encoder: "Encoder", decoder: "Decoder", vqgan: Vqgan
    ) -> None:
        self.card, self.tokenizer, self.vqgan = card, tokenizer, vqgan
        self.encoder, self.decoder = encoder, decoder

    @classmethod
    def read(cls, card: Card, folder: Path, dtype: str) -> "MinDalle":
        """One of the files in a folder.

        Args:
            dtype: bf16, else fp32.

        Raises:
            models.weights_io.WeightsError: a file is not there, or not what the card says.
        """
        to = torch.bfloat16 if dtype == "bf16" else torch.float32
        vocabulary = read_vocabulary(folder / VOCABULARY, card.vocabulary)
        tokenizer = Tokenizer(vocabulary, read_merges(folder / MERGES))
        with torch.device("meta"):
            encoder, decoder = Encoder(card), Decoder(card)
        for network, file in ((encoder, ENCODER), (decoder, DECODER)):
            tensors = load_tensors(folder / file)
            for name, tensor in tensors.items():
                tensors[name] = tensor.to(to)  # one after the other: of gigabytes, no two copies
            network.load_state_dict(fitted(network, tensors, folder / file), assign=True)
            network.eval().requires_grad_(False)
        vqgan = Vqgan(card.config, "VQModel")
        try:
            vqgan.read(load_tensors(folder / DETOKER))
        except WeightsMismatch as error:
            raise WeightsUnusable(f"{folder / DETOKER} is not what its card says: {error}") from error
        if dtype == "bf16":
            vqgan.halve()
        return cls(card, tokenizer, encoder, decoder, vqgan.to(memory_format=torch.channels_last))

    def to(self, device: str) -> "MinDalle":
        """The same, moved to a device."""
        for network in (self.encoder, self.decoder, self.vqgan):
            network.to(device)
        return self

    def condition_on_texts(
        self, texts: Sequence[str], weights: Sequence[float], guidance: float
    ) -> Conditioning:
        """What texts tell the decoder.

        Args:
            weights: of the texts, one at least above 0.
            guidance: as of `autoregressive.guided`; min-dalle calls it the supercondition factor.

        Raises:
            TextTooLong: the message says how long.
        """
        device = self.decoder.embed_tokens.weight.device
        rows = [self.tokenizer.nothing, *(self.tokenizer.encode(text) for text in texts)]
        for text, row in zip(texts, rows[1:], strict=True):
            if len(row) > self.card.words:
                raise TextTooLong(
                    f"{text[:40]!r}… has {len(row)} tokens, and {self.card.name} reads {self.card.words}"
                )
        mix = guided(torch.tensor(weights, device=device), guidance)
        counted = mix.nonzero()[:, 0]  # with a guidance of 1, what there is without a text does not
        padded = [row + [PAD] * (self.card.words - len(row)) for row in rows]
        tokens = torch.tensor(padded, device=device)[counted]
        with torch.no_grad():
            reading = Reading(self.decoder, self.encoder(tokens), tokens != PAD)
            # a picture begins with the token after the codes: `decoder_start_token_id` of the training's
            # configurations, 16,384. min-dalle itself has begun with the last code since its 0.4.11
            start = self.decoder.embed_tokens.weight[-1:]
        return Conditioning(reading, Conditions(start.expand(len(tokens), 1, -1)), mix[counted])


class Encoder(nn.Module):
    """Reads texts."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(card.vocabulary, card.width)
        self.embed_positions = nn.Embedding(card.words, card.width)
        self.layernorm_embedding = nn.LayerNorm(card.width)
        self.layers = nn.ModuleList(_EncoderLayer(card) for _ in range(card.depth))
        self.final_ln = nn.LayerNorm(card.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of texts, padded, to what is known of each: (P, L) -> (P, L, width)"""
        mask = (tokens != PAD)[:, None, None]
        x = self.layernorm_embedding(self.embed_tokens(tokens) + self.embed_positions.weight)
        for layer in self.layers:
            x = layer(x, mask)
        known: Tensor = self.final_ln(x)
        return known


class Decoder(nn.Module):
    """Expects the codes of pictures; `Reading` is one that knows texts."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(card.config.n_embed + 1, card.width)
        self.embed_positions = nn.Embedding(card.codes, card.width)
        self.layernorm_embedding = nn.LayerNorm(card.width)
        self.layers = nn.ModuleList(_DecoderLayer(card) for _ in range(card.depth))
        self.final_ln = nn.LayerNorm(card.width)
        self.lm_head = nn.Linear(card.width, card.config.n_embed, bias=False)


class Reading:
    """A decoder with P texts before it, as `models.networks.autoregressive.Expecting` says.

    Args:
        known: of the texts, by the encoder: (P, L, width)
        mask: which of their tokens are no padding, (P, L).
    """

    def __init__(self, decoder: Decoder, known: Tensor, mask: Tensor) -> None:
        self.tokens = decoder.embed_tokens
        self._decoder, self._mask = decoder, mask[:, None, None]
        self._layers = [cast(_DecoderLayer, layer) for layer in decoder.layers]
        self._texts = [layer.encoder_attn.keys_values(known) for layer in self._layers]

    def cache(self, rows: int) -> Cache:
        """See `Expecting`."""
        positions, heads = self._decoder.embed_positions.weight[None], self._layers[0].self_attn.heads
        return Cache(positions, depth=len(self._layers), heads=heads, rows=rows)

    def __call__(self, inputs: Tensor, cache: Cache, /) -> Tensor:
        """See `Expecting`; the N sequences are in P groups, one for each text."""
        decoder, start = self._decoder, cache.filled
        x = inputs + decoder.embed_positions.weight[start : start + inputs.shape[1]]
        x = decoder.layernorm_embedding(x)
        for index, layer in enumerate(self._layers):
            x = layer(x, cache, index, self._texts[index], self._mask)
        cache.filled += inputs.shape[1]
        logits: Tensor = decoder.lm_head(decoder.final_ln(x))
        return logits


class _Attention(nn.Module):
    def __init__(self, card: Card) -> None:
        super().__init__()
        self.heads = card.heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(card.width, card.width, bias=False) for _ in range(4)
        )

    def queries(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, heads, T, width / heads)"""
        return self._parted(self.q_proj(x))

    def keys_values(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (2, N, heads, T, width / heads)"""
        return torch.stack([self._parted(self.k_proj(x)), self._parted(self.v_proj(x))])

    def _parted(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class _Gated(nn.Module):
    def __init__(self, card: Card) -> None:
        super().__init__()
        self.ln0, self.ln1 = nn.LayerNorm(card.width), nn.LayerNorm(card.middle)
        self.fc0, self.fc1 = (nn.Linear(card.width, card.middle, bias=False) for _ in range(2))
        self.fc2 = nn.Linear(card.middle, card.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.ln0(x)
        gated: Tensor = self.fc2(self.ln1(F.gelu(self.fc0(x)) * self.fc1(x)))
        return gated


class _EncoderLayer(nn.Module):
    def __init__(self, card: Card) -> None:
        super().__init__()
        self.pre_self_attn_layer_norm = nn.LayerNorm(card.width)
        self.self_attn = _Attention(card)
        self.self_attn_layer_norm = nn.LayerNorm(card.width)
        self.glu = _Gated(card)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        inner = self.pre_self_attn_layer_norm(x)
        queries, (keys, values) = self.self_attn.queries(inner), self.self_attn.keys_values(inner)
        found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        found = self.self_attn.out_proj(found.transpose(1, 2).flatten(2))
        x = x + self.self_attn_layer_norm(found)
        read: Tensor = x + self.glu(x)
        return read


class _DecoderLayer(nn.Module):
    def __init__(self, card: Card) -> None:
        super().__init__()
        self.pre_self_attn_layer_norm = nn.LayerNorm(card.width)
        self.self_attn = _Attention(card)
        self.self_attn_layer_norm = nn.LayerNorm(card.width)
        self.pre_encoder_attn_layer_norm = nn.LayerNorm(card.width)
        self.encoder_attn = _Attention(card)
        self.encoder_attn_layer_norm = nn.LayerNorm(card.width)
        self.glu = _Gated(card)

    def forward(self, x: Tensor, cache: Cache, index: int, texts: Tensor, mask: Tensor) -> Tensor:
        inner = self.pre_self_attn_layer_norm(x)
        seen = cache.put(index, self.self_attn.keys_values(inner))
        found = self.self_attn.out_proj(attend(self.self_attn.queries(inner), seen))
        x = x + self.self_attn_layer_norm(found)
        queries = self.encoder_attn.queries(self.pre_encoder_attn_layer_norm(x))
        found = self.encoder_attn.out_proj(_consult(queries, texts, mask))
        x = x + self.encoder_attn_layer_norm(found)
        read: Tensor = x + self.glu(x)
        return read


def _consult(queries: Tensor, texts: Tensor, mask: Tensor) -> Tensor:
    """What N sequences find in P texts: (N, heads, T, width / heads) -> (N, T, width)

    The sequences of a text ask it together, so that its keys and values are not copied for each.

    Args:
        texts: keys and values, (2, P, heads, L, width / heads)
        mask: (P, 1, 1, L)
    """
    rows, heads, new, size = queries.shape
    grouped = queries.view(texts.shape[1], -1, heads, new, size).transpose(1, 2)  # (P, heads, N / P, T, …)
    found = F.scaled_dot_product_attention(grouped.flatten(2, 3), texts[0], texts[1], attn_mask=mask)
    found = found.view(*grouped.shape).permute(0, 2, 3, 1, 4)  # (P, N / P, T, heads, …)
    return found.reshape(rows, new, heads * size)


def fitted(network: Encoder | Decoder, tensors: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Those of a file's tensors that a network has.

    Of the codes' tables, some models have rows after the last one and the start, which mean nothing.

    Raises:
        WeightsUnusable: one is missing, or of another shape.
    """
    expected = network.state_dict()
    found = {name: tensor for name, tensor in tensors.items() if name in expected}
    if isinstance(network, Decoder):
        for name in found.keys() & {"embed_tokens.weight", "lm_head.weight"}:
            found[name] = found[name][: len(expected[name])]
    if problems := differences(found, expected):
        raise WeightsUnusable(f"{source} is not what its card says: {problems}")
    return found
