"""Writes unCLIP models as diffusers keeps them: small, with random weights, laid out as Karlo."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip import UnCLIPImageVariationPipeline, UnCLIPPipeline
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from models.networks.unclip import NETWORKS

SMALL, SIDE = 16, 32
"""Pixels of the image that the decoder draws, and of what is made of it."""

_DIM, _LENGTH = 24, 77
_CHANNELS = (32, 64)
CARD = """description = "A small unCLIP with random weights."
license = "MIT"
source = "a test"
side = {side}
bytes_per_pixel = 4000

[parameters]
"""


def write_unclip(folder: Path, reads: str) -> Any:
    """Write a model and its card; returns diffusers' pipeline, made of the very same networks.

    Args:
        reads: "text" or "image".
    """
    write_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        parts = _parts(folder / "tokenizer")
    parts["prior"].clip_std.data.fill_(1)  # it begins as 0, so that every embedding would be one
    kind = UnCLIPPipeline if reads == "text" else UnCLIPImageVariationPipeline
    other = ("image_encoder", "feature_extractor") if reads == "text" else ("prior", "prior_scheduler")
    pipeline = kind(**{name: part for name, part in parts.items() if name not in other})
    pipeline.save_pretrained(folder)
    (folder / "tokenizer" / "tokenizer.json").unlink()  # Karlo's has none
    write_tokenizer(folder / "tokenizer")
    numbers = {
        part: sum(tensor.numel() for tensor in getattr(pipeline, part).parameters())
        for part in NETWORKS
        if hasattr(pipeline, part)
    }
    lines = "".join(f"{part} = {number}\n" for part, number in numbers.items())
    (folder / "unclip.toml").write_text(CARD.format(side=SIDE) + lines)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_tokenizer(folder: Path) -> None:
    """CLIP's byte pairs, without any pair: a token for each letter, as the files of old."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {**special, "model_max_length": _LENGTH, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _parts(words: Path) -> Mapping[str, Any]:
    tokenizer = CLIPTokenizer.from_pretrained(words)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_DIM,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        projection_dim=_DIM,
        bos_token_id=len(tokenizer) - 2,
        eos_token_id=len(tokenizer) - 1,
    )
    vision = CLIPVisionConfig(
        hidden_size=_DIM,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        projection_dim=_DIM,
        image_size=32,
        patch_size=16,
    )
    return {
        "prior": PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            embedding_dim=_DIM,
            num_embeddings=_LENGTH,
        ),
        "decoder": UNet2DConditionModel(
            sample_size=SMALL,
            layers_per_block=1,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            block_out_channels=_CHANNELS,
            in_channels=3,
            out_channels=6,
            cross_attention_dim=_DIM,
            class_embed_type="identity",
            attention_head_dim=16,
            resnet_time_scale_shift="scale_shift",
        ),
        "text_encoder": CLIPTextModelWithProjection(text).eval(),
        "tokenizer": tokenizer,
        "text_proj": UnCLIPTextProjModel(
            clip_extra_context_tokens=2,
            clip_embeddings_dim=_DIM,
            time_embed_dim=4 * _CHANNELS[0],
            cross_attention_dim=_DIM,
        ),
        "image_encoder": CLIPVisionModelWithProjection(vision).eval(),
        "feature_extractor": CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        "super_res_first": _upscaler(),
        "super_res_last": _upscaler(),
        "prior_scheduler": UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
        ),
        "decoder_scheduler": UnCLIPScheduler(variance_type="learned_range", prediction_type="epsilon"),
        "super_res_scheduler": UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="epsilon"),
    }


def _upscaler() -> UNet2DModel:
    return UNet2DModel(
        sample_size=SIDE,
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"),
        up_block_types=("ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
        block_out_channels=_CHANNELS,
        in_channels=6,
        out_channels=3,
        add_attention=False,
    )
