"""The cards of the CLIP models: what each is, where its weights come from, licence and templates.

`cards/<name>.toml` is the model `<name>`; a user's own is `<name>/clip.toml` in the folder of the weights.
Reading cards needs no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os.path import normpath
from pathlib import Path
from typing import Any

from models.clip import UnknownClip
from models.weights_io.card import CardFolder, Download, folder_of

OWN_CARD = "clip.toml"
_CARDS = CardFolder(Path(__file__).parent / "cards", OWN_CARD)
CONFIG = "open_clip_config.json"
CLIP_FILE = "open_clip_model.safetensors"
SCHEMES = ("local-dir", "hf-hub", "open_clip")
DEFAULT_TEMPLATES = ("a photo of a {label}.",)


@dataclass(frozen=True)
class ClipCard:
    """What is known of a CLIP before it is loaded."""

    name: str
    source: str
    """`local-dir:FOLDER` (relative to the weights), `hf-hub:ORG/NAME` or `open_clip:ARCHITECTURE/TAG`."""
    downloads: tuple[Download, ...] = ()  # the first that answers; none: open_clip's own
    description: str = ""
    license: str = "unknown"  # an SPDX expression
    attributions: tuple[str, ...] = ()  # what the licences of its parts and training data ask to be said
    files: dict[str, str] = field(default_factory=dict)  # of a local-dir: path in its folder -> SHA-256
    templates: tuple[str, ...] = DEFAULT_TEMPLATES  # each has {label}
    embedding_dim: int | None = None  # these three are None where only loading can tell
    image_size: int | None = None  # pixels
    context_length: int | None = None  # tokens, both end tokens included
    draft: int = (
        3  # times its input that large JPEGs are decoded at least; 0: whole, or its view would change
    )
    weight_bytes: int | None = None  # in fp32
    needs_fp32: bool = False  # 16 bits turn some of its embeddings; a `dtype` of auto leaves it in fp32
    view_bytes: int | None = (
        None  # what a view keeps in fp32 for the way back: python -m benchmarks.drawing.memory
    )

    @property
    def scheme(self) -> str:
        return self.source.partition(":")[0]

    @property
    def place(self) -> str:
        """The source without its scheme."""
        return self.source.partition(":")[2]

    def folder(self, weights: Path) -> Path:
        """Where its files lie on this machine, or will when they were fetched.

        Args:
            weights: where relative folders start.
        """
        return weights / (self.place if self.scheme == "local-dir" else folder_of(self.name))

    def paths(self, weights: Path) -> dict[Path, str]:
        """Where its `files` lie, and the SHA-256 of each. Cards may share one: `../OTHER/FILE`."""
        folder = self.folder(weights)
        return {Path(normpath(folder / file)): sha256 for file, sha256 in self.files.items()}

    def parts(self, weights: Path) -> list[Path]:
        """The files of tensors, if there are several: open_clip would read one of them."""
        found = [path for path in self.paths(weights) if path.suffix == ".safetensors"]
        return found if len(found) > 1 else []

    def is_here(self, weights: Path) -> bool:
        """Whether it can be loaded: its configuration is the last thing that fetching puts there."""
        return (self.folder(weights) / CONFIG).is_file()


def available(weights: Path | None = None) -> list[str]:
    """The names that have a card; with a user's own among the weights."""
    return _CARDS.names(weights)


def find_card(name: str, weights: Path | None = None) -> ClipCard:
    """The card of that name, or one made for a name that says itself where the model is.

    `local-dir:/folder`, `hf-hub:ORG/NAME` and `open_clip:ARCHITECTURE/TAG` need no card; nothing but the
    model's own configuration is known of them.

    Args:
        weights: where a user's own cards lie, and a relative `local-dir:` without a card starts.

    Raises:
        UnknownClip: no card has that name and it is not a source either.
    """
    if fields := _CARDS.read(name, weights):
        return _card(fields)
    scheme, _, place = name.partition(":")
    if scheme not in SCHEMES or not place or (scheme == "open_clip" and "/" not in place):
        raise UnknownClip(
            f"no CLIP {name!r}; there are {', '.join(available(weights))}, "
            "and local-dir:FOLDER, hf-hub:ORG/NAME and open_clip:ARCHITECTURE/TAG"
        )
    card = ClipCard(name, name)
    return replace(card, **_read_sizes(card.folder(weights or Path()) / CONFIG))


def sizes_of(model: Mapping[str, Any]) -> dict[str, int]:
    """What the `model_cfg` of an open_clip configuration says of a card's sizes."""
    image_size = model["vision_cfg"].get("image_size", 224)
    return {
        "embedding_dim": model["embed_dim"],
        "image_size": image_size if isinstance(image_size, int) else max(image_size),
        "context_length": model["text_cfg"].get("context_length", 77),
    }


def _card(values: dict[str, Any]) -> ClipCard:
    """A card of what its TOML file says; a key it does not know is a TypeError."""
    for key in ("attributions", "templates"):
        if key in values:
            values[key] = tuple(values[key])
    values["downloads"] = tuple(Download(**item) for item in values.get("downloads", ()))
    return ClipCard(**values)


def _read_sizes(config: Path) -> dict[str, Any]:
    """The sizes that an open_clip configuration states; none if it cannot be read: loading says why."""
    try:
        return dict(sizes_of(json.loads(config.read_text("utf-8"))["model_cfg"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
