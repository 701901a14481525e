"""Pack what `make train` made as it is shipped, and say how large it is and what its cards are to state.

    python -m training.packing data models/weights

Both CLIPs have the same vectors of tokens, which learn with the text tower they begin with and never after:
they lie in a file of their own. These, the rest of the text towers, the heads and the prior are shipped in 8
bits; what pictures pass through in 16, where 8 would turn embeddings by up to 0.026 and cost detail.
"""

import argparse
import shutil
from pathlib import Path

import torch

from models.clip.cards import CLIP_FILE, CONFIG
from models.weights_io import load_tensors, save_tensors, sha256_of
from models.weights_io.quantize import pack
from training import dalle, prior, vqgan

CLIPS = ("clip-photo", "clip-icons")
WORDS = "token_embedding.weight"
_WORDS_FILE = "clip-words/token_embedding.safetensors"
_TRUNK = "visual.trunk."


class WordsDiffer(ValueError):
    """The CLIPs have not the same vectors of tokens."""


def main() -> None:
    """Write the files, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trained", type=Path, help="what `make train` filled")
    parser.add_argument("folder", type=Path, help="where to write")
    chosen = parser.parse_args()
    total = 0
    for path in ship(chosen.trained, chosen.folder):
        total += path.stat().st_size
        print(f"{path.stat().st_size / 1e6:6.2f} MB  {sha256_of(path)}  {path.relative_to(chosen.folder)}")
    print(f"{total / 1e6:6.2f} MB")


def ship(trained: Path, folder: Path) -> list[Path]:
    """Write the files of the demo models; they.

    Raises:
        WordsDiffer
    """
    networks = {name: load_tensors(trained / name / CLIP_FILE) for name in CLIPS}
    words = [tensors.pop(WORDS) for tensors in networks.values()]
    if not all(torch.equal(words[0], other) for other in words):
        raise WordsDiffer(f"{' and '.join(CLIPS)} have other vectors of tokens; train both on one text tower")
    made = {folder / _WORDS_FILE: pack({WORDS: words[0]}, lambda name: True)}
    for name, tensors in networks.items():
        made[folder / name / CLIP_FILE] = pack(tensors, lambda name: not name.startswith(_TRUNK))
    made[folder / "prior" / prior.FILE] = pack(
        load_tensors(trained / "prior" / prior.FILE), lambda name: True
    )
    for path, tensors in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, tensors, {})
    copied = [f"{name}/{CONFIG}" for name in CLIPS] + [f"vqgan/{vqgan.WEIGHTS}", f"dalle/{dalle.FILE}"]
    for file in copied:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trained / file, folder / file)
    return [*made, *(folder / file for file in copied)]


if __name__ == "__main__":
    main()
