"""CLIPs with random weights, in folders that every server can load: their speed is that of trained ones."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

THIN = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 64, "patch_size": 32, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
"""One layer of width 64: what is left of a request's time is what serving costs."""


def save(folder: Path, architecture: str) -> str:
    """A CLIP of that architecture, or `thin`, its weights drawn from a fixed seed; its name as a source."""
    config: dict[str, Any] = THIN if architecture == "thin" else open_clip.get_model_config(architecture)
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"
