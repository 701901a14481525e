"""A CLIP as open_clip keeps it, in the form that transformers loads: the same weights for a peer.

Run by an interpreter that has transformers 4: `python hf_clip.py FOLDER VOCABULARY OUT`, where FOLDER holds a
ViT of open_clip's and VOCABULARY is its `bpe_simple_vocab_16e6.txt.gz`.
"""

import gzip
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def main(folder: Path, vocabulary: Path, out: Path) -> None:
    """Write the folder."""
    out.mkdir(parents=True)
    shape = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    state = load_file(folder / "open_clip_model.safetensors")
    vision, text = shape["vision_cfg"], shape["text_cfg"]
    config = CLIPConfig(
        projection_dim=shape["embed_dim"],
        vision_config={
            "hidden_act": "gelu",
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "patch_size": vision["patch_size"],
            "image_size": vision["image_size"],
        },
        text_config={
            "hidden_act": "gelu",
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
        },
    )
    model = CLIPModel(config).eval()
    model.load_state_dict(converted(state), strict=False)
    tokenizer = write_tokenizer(vocabulary, out)
    CLIPProcessor(image_processor=CLIPImageProcessor(), tokenizer=tokenizer).save_pretrained(out)
    model.save_pretrained(out)


def converted(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every weight under the name that transformers has for it."""
    named = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T,
        "text_projection.weight": state["text_projection"].T,
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
    }
    for kind in ("weight", "bias"):
        named[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        named[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        named[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
    for ours, theirs in (("visual.transformer", "vision_model"), ("transformer", "text_model")):
        for name, tensor in state.items():
            if not name.startswith(f"{ours}.resblocks."):
                continue
            _, number, part = name.removeprefix(f"{ours}.").split(".", 2)
            place = f"{theirs}.encoder.layers.{number}"
            if part.startswith("attn.in_proj_"):
                for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                    named[f"{place}.self_attn.{letter}_proj.{part.removeprefix('attn.in_proj_')}"] = third
            else:
                layer, _, kind = part.rpartition(".")
                named[f"{place}.{BLOCK[layer]}.{kind}"] = tensor
    return {name: tensor.contiguous() for name, tensor in named.items()}


def write_tokenizer(vocabulary: Path, out: Path) -> CLIPTokenizerFast:
    """CLIP's byte pairs, as its authors keep them, in the two files that transformers reads."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [*map(chr, printable), *(chr(256 + number) for number in range(len(others)))]
    merges = gzip.decompress(vocabulary.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair.split()) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (out / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizerFast(str(out / "vocab.json"), str(out / "merges.txt"), model_max_length=77)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
