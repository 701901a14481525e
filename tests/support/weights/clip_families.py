"""CLIPs of every family that open_clip builds, tiny: their configurations, and a tokenizer."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "heart", "car", "clip", "art", "of"]

FAMILIES: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 48, "vision_cfg": VIT | {"image_size": 32}, "text_cfg": TEXT},
    "vit-large-image": {
        "embed_dim": 48,
        "vision_cfg": VIT | {"image_size": 384, "patch_size": 64},
        "text_cfg": TEXT,
        "quick_gelu": True,
    },
    "vit-not-square": {"embed_dim": 48, "vision_cfg": VIT | {"image_size": [24, 40]}, "text_cfg": TEXT},
    "rn50-style": {
        "embed_dim": 48,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "image_size": 64},
        "text_cfg": TEXT,
    },
    # as SigLIP: timm's tower with attention pooling, a bias, texts read both ways by another tokenizer
    "siglip-style": {
        "embed_dim": 96,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit3",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": TEXT
        | {
            "vocab_size": len(WORDS),
            "hf_tokenizer_name": "none/none",  # of a folder, the folder's own is taken
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    },
}


def save_tokenizer(folder: Path) -> None:
    """One of words, with an end token and padding as SigLIP's."""
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 16, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
