"""The demo models' CLIP as it learns: an EfficientNet-lite0 with a head beside a small text tower."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor

from models.clip.cards import CLIP_FILE, CONFIG, find_card
from models.clip.parts import tensors_of
from models.weights_io.card import WEIGHTS

CONTEXT = 32  # tokens
DIMENSION = 640  # of the embeddings
TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 3}


def config(image_size: int) -> dict[str, Any]:
    """The model in open_clip's words."""
    vision = {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "mlp",
        "image_size": image_size,
    }
    return {"embed_dim": DIMENSION, "vision_cfg": vision, "text_cfg": TEXT}


def build(image_size: int) -> CLIP:
    """A network of random weights."""
    return CLIP(**config(image_size))


def encode_texts(network: CLIP, rows: Sequence[Sequence[int]]) -> Tensor:
    """Token ids, end tokens included -> (P, D) of unit length. Padded to the longest: the mask is causal."""
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    tokens = tokens.to(network.positional_embedding.device)
    length = tokens.shape[1]
    hidden = network.token_embedding(tokens) + network.positional_embedding[:length]  # (P, L, width)
    hidden = network.transformer(hidden, attn_mask=network.attn_mask[:length, :length])
    last = network.ln_final(hidden)[torch.arange(len(rows)), tokens.argmax(-1)]  # the end has the highest id
    return F.normalize((last @ network.text_projection).float(), dim=-1)


def encode_images(network: CLIP, images: Tensor) -> Tensor:
    """(N, 3, R, R) in [0, 1] -> (N, D) of unit length"""
    return F.normalize(network.encode_image(images * 2 - 1).float(), dim=-1)


def read(network: CLIP, start: Path) -> None:
    """Take the weights of a folder, or of a card such as demo-icons."""
    parts = [start / CLIP_FILE] if start.is_dir() else find_card(str(start)).parts(WEIGHTS)
    network.load_state_dict(
        {
            name: value.float() if value.is_floating_point() else value
            for name, value in tensors_of(parts).items()
        }
    )


def write(network: CLIP, folder: Path, image_size: int) -> None:
    """A folder that `local-dir:` loads: the config, and weights of 16 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in network.state_dict().items()
    }
    save_file(tensors, folder / CLIP_FILE)
    seen = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / CONFIG).write_text(
        json.dumps({"model_cfg": config(image_size), "preprocess_cfg": seen}, indent=1)
    )
