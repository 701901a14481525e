"""A CLIP whose weights lie in several files: those of the demo share the vectors of their tokens."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from open_clip.model import CLIP, set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor
from torchvision.transforms import Compose

from models.clip.cards import CLIP_FILE, CONFIG, ClipCard
from models.weights_io import load_tensors, save_tensors


def assemble(folder: Path, parts: Iterable[Path]) -> tuple[CLIP, Compose]:
    """The network of a folder's configuration with the tensors of all parts, and open_clip's own transform.

    Raises:
        RuntimeError: the tensors are not those of the network.
    """
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    model = CLIP(**config["model_cfg"])
    model.load_state_dict(tensors_of(parts))
    seen = PreprocessCfg(size=model.visual.image_size, **config["preprocess_cfg"])
    set_model_preprocess_cfg(model, asdict(seen))
    return model, image_transform_v2(seen, is_train=False)


def tensors_of(parts: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors of the parts. Their hashes were compared before.

    Raises:
        models.weights_io.WeightsMissing, WeightsUnusable
    """
    return {name: tensor for part in parts for name, tensor in load_tensors(part).items()}


def write_whole(card: ClipCard, weights: Path, folder: Path) -> Path:
    """Write a CLIP of parts into a folder that open_clip itself loads, in fp32; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_bytes((card.folder(weights) / CONFIG).read_bytes())
    save_tensors(folder / CLIP_FILE, tensors_of(card.parts(weights)), {})
    return folder
