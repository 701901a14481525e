"""Writes checkpoints in the layouts that are found in the wild: small, of networks with random weights."""

import argparse
import json
import sys
import types
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from models.networks.min_dalle import OWN_CARD, Card
from models.networks.min_dalle.min_dalle_model import Decoder, Encoder
from models.networks.vqgan import VqganConfig
from models.networks.vqgan.vqgan_model import Vqgan

VQGAN: dict[str, Any] = {
    "embed_dim": 16,
    "n_embed": 64,
    "ddconfig": {
        "double_z": False,
        "z_channels": 32,
        "resolution": 32,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [8],
        "dropout": 0.0,
    },
}
CLIP: dict[str, Any] = {
    "embed_dim": 48,
    "quick_gelu": True,
    "vision_cfg": {"layers": 2, "width": 64, "patch_size": 8, "head_width": 32, "image_size": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESSING = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


MIN_DALLE_VQGAN = VQGAN | {
    "ddconfig": VQGAN["ddconfig"] | {"resolution": 64, "attn_resolutions": [16]}  # 256 codes, as it has
}
MIN_DALLE = {"vocabulary": 60, "words": 16, "width": 32, "middle": 48, "depth": 2, "heads": 4}
MERGES = ["Ġ r", "Ġr e", "Ġre d", "h e", "a r", "he ar", "hear t", "Ġ heart", "Ġ c", "a t", "Ġc at", "o o"]


def vqgan_state(kind: str = "VQModel", config: dict[str, Any] = VQGAN) -> dict[str, Tensor]:
    """The tensors of a small VQGAN."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = Vqgan(VqganConfig.model_validate(config), "GumbelVQ" if kind == "GumbelVQ" else "VQModel")
    return dict(network.state_dict())


def min_dalle_card(name: str = "tiny") -> Card:
    """A small min-dalle."""
    about = {"description": "A small min-dalle.", "license": "MIT", "source": "a test"}
    return Card.model_validate({"name": name, "config": MIN_DALLE_VQGAN, **about, **MIN_DALLE})


def min_dalle_states() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of its encoder and its decoder, which has codes that mean nothing, as mega has."""
    card = min_dalle_card()
    with torch.device("meta"):
        encoder, decoder = (network(card).state_dict() for network in (Encoder, Decoder))
    for name in ("embed_tokens.weight", "lm_head.weight"):
        decoder[name] = torch.empty(card.config.n_embed + 32, card.width, device="meta")
    return random_state(encoder, 1), random_state(decoder, 2)


def random_state(like: Mapping[str, Tensor], seed: int, scale: float = 0.2) -> dict[str, Tensor]:
    """Tensors of these names and shapes, the same wherever they are made; fp16 holds them, too."""
    rng = np.random.default_rng(seed)
    made = {}
    for name in sorted(like):
        values = torch.from_numpy(rng.standard_normal(tuple(like[name].shape), np.float32))
        # the weight of a norm is near 1
        made[name] = (values * scale + (values.ndim == 1 and name.endswith("weight"))).half().float()
    return made


def min_dalle_tokens() -> dict[str, int]:
    """Numbers of special tokens, letters, and what merges make."""
    parts = ["<s>", "<pad>", "</s>", "<unk>", "Ġ", *"abcdefghijklmnopqrstuvwxyz_,"]
    parts += [merge.replace(" ", "") for merge in MERGES]
    return {part: number for number, part in enumerate(parts)}


def write_min_dalle(folder: Path, suffix: str = "") -> None:
    """The files of min-dalle's repository, with a small network."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder, decoder = min_dalle_states()
    torch.save(encoder, folder / f"encoder{suffix}.pt")
    torch.save({name: tensor.half() for name, tensor in decoder.items()}, folder / f"decoder{suffix}.pt")
    vqgan = vqgan_state(config=MIN_DALLE_VQGAN)
    detoker = {key: t for key, t in vqgan.items() if key.startswith(("decoder.", "post_quant_conv."))}
    torch.save(detoker | {"embedding.weight": vqgan["quantize.embedding.weight"]}, folder / "detoker.pt")
    (folder / f"vocab{suffix}.json").write_text(json.dumps(min_dalle_tokens()))
    (folder / f"merges{suffix}.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))


def write_min_dalle_card(weights: Path, name: str = "tiny", suffix: str = "", downloads: str = "") -> None:
    """The card of such a model, which is one's own."""
    (weights / name).mkdir(parents=True, exist_ok=True)
    card = min_dalle_card(name).model_copy(update={"suffix": suffix})
    fields = card.model_dump(exclude={"name", "config", "downloads", "attributions"})
    lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    lines += [downloads, "[config]"]
    lines += [f"{key} = {json.dumps(MIN_DALLE_VQGAN[key])}" for key in ("embed_dim", "n_embed")]
    lines += ["[config.ddconfig]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in MIN_DALLE_VQGAN["ddconfig"].items()]
    (weights / name / OWN_CARD).write_text("\n".join(lines))


def clip_network(config: dict[str, Any] = CLIP) -> Any:
    """A small CLIP as open_clip builds it."""
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    values = {key: value for key, value in config.items() if key != "custom_text"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return kind(**values).eval()


def write_taming_yaml(path: Path, *, net2net: bool = False, kind: str = "VQModel") -> None:
    """The YAML that lies beside a checkpoint of taming-transformers."""
    losses = {"lossconfig": {"target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator"}}
    model: dict[str, Any] = {"target": f"taming.models.vqgan.{kind}", "params": {**VQGAN, **losses}}
    if kind == "GumbelVQ":
        model["params"] |= {"kl_weight": 1e-8, "temperature_scheduler_config": {"target": "x"}}
    if net2net:
        first = {**model, "params": model["params"] | {"ckpt_path": "logs/vqgan.ckpt"}}
        model = {
            "target": "taming.models.cond_transformer.Net2NetTransformer",
            "params": {"first_stage_config": first, "cond_stage_config": "__is_first_stage__"},
        }
    path.write_text(yaml.safe_dump({"model": {"base_learning_rate": 4.5e-6, **model}, "data": {}}))


def write_lightning(path: Path, state: dict[str, Tensor], *, legacy: bool = False) -> None:
    """As Lightning of 2021: classes as keys, an optimizer, losses and the discriminator among the tensors.

    Args:
        legacy: before torch 1.6, when it was no zip.
    """
    rest = {
        "loss.perceptual_loss.net.slice1.0.weight": torch.zeros(3),
        "loss.discriminator.main.0.weight": torch.zeros(3),
        "loss.discriminator.main.1.num_batches_tracked": torch.tensor(7),
    }
    with _lightning_classes() as names:
        callback = names.logger()
        callback.best = 1.0
        checkpoint = {
            "epoch": 3,
            "global_step": 1000,
            "pytorch-lightning_version": "1.0.8",
            "callbacks": {names.checkpoint: {"best_model_score": torch.tensor(0.5)}, names.logger: callback},
            "optimizer_states": [{"state": defaultdict(list, {0: [torch.zeros(2)]})}],
            "lr_schedulers": [],
            "hyper_parameters": names.attributes(lr=4.5e-6, namespace=argparse.Namespace(x=1)),
            "state_dict": OrderedDict(state | rest),
        }
        torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)


def write_net2net(path: Path, state: dict[str, Tensor]) -> None:
    """A transformer over a VQGAN, which is in there under a prefix."""
    tensors = {f"first_stage_model.{name}": tensor for name, tensor in state.items()}
    tensors |= {f"cond_stage_model.{name}": torch.zeros(1) for name in state}
    tensors |= {"transformer.tok_emb.weight": torch.zeros(4, 4), "transformer.head.weight": torch.zeros(4)}
    write_lightning(path, tensors)


def write_openai_archive(path: Path) -> Any:
    """A TorchScript archive in fp16, numbers as tensors, as OpenAI published its CLIPs; returns the CLIP."""
    network = clip_network().half().float()
    for name, number in (("input_resolution", 32), ("context_length", 16), ("vocab_size", 49408)):
        if hasattr(network, name):
            delattr(network, name)
        network.register_buffer(name, torch.tensor(number))
    example = (torch.zeros(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have it exported otherwise, and traces numbers
        torch.jit.trace(network, example, check_trace=False).half().save(str(path))
    return network.float()  # the trace shares its tensors


def write_open_clip_training(path: Path) -> Any:
    """A checkpoint of open_clip's training on several devices; returns the CLIP."""
    network = clip_network()
    tensors = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 32, "name": "run", "state_dict": tensors, "optimizer": {"state": {}}}, path)
    return network


def write_hub_folder(folder: Path, config: dict[str, Any] = CLIP) -> Any:
    """A repository of the hub in open_clip's layout, with safetensors; returns the CLIP."""
    folder.mkdir(parents=True, exist_ok=True)
    network = clip_network(config)
    write_open_clip_config(folder / "open_clip_config.json", config)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return network


def write_open_clip_config(path: Path, config: dict[str, Any] = CLIP) -> None:
    path.write_text(json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESSING}))


@contextmanager
def _lightning_classes() -> Iterator[types.SimpleNamespace]:
    """Classes under the names that Lightning of 2021 had, so that real pickles name them."""
    made: dict[str, types.ModuleType] = {}
    before = dict(sys.modules)

    def define(module: str, name: str, bases: tuple[type, ...] = ()) -> Any:
        for end in range(1, module.count(".") + 2):
            package = ".".join(module.split(".")[:end])
            made.setdefault(package, types.ModuleType(package))
            sys.modules[package] = made[package]
        setattr(made[module], name, type(name, bases, {"__module__": module}))
        return getattr(made[module], name)

    try:
        yield types.SimpleNamespace(
            checkpoint=define("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
            attributes=define("pytorch_lightning.utilities.parsing", "AttributeDict", (dict,)),
            logger=define("main", "ImageLogger"),
        )
    finally:
        for name in made:
            if name in before:
                sys.modules[name] = before[name]
            else:
                del sys.modules[name]
