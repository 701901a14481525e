"""The cards of the CLIP models: what each is, where its weights lie, their SHA-256, licence and templates.

`cards/<name>.toml` is the model `<name>`. Reading cards needs no torch.
"""

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from models.clip import UnknownClip

CARDS = Path(__file__).parent / "cards"
CONFIG = "open_clip_config.json"
SCHEMES = ("local-dir", "hf-hub", "open_clip")
DEFAULT_TEMPLATES = ("a photo of a {label}.",)


@dataclass(frozen=True)
class ClipCard:
    """What is known of a CLIP before it is loaded."""

    name: str
    source: str
    """`local-dir:FOLDER` (relative to the weights), `hf-hub:ORG/NAME` or `open_clip:ARCHITECTURE/TAG`."""
    description: str = ""
    license: str = "unknown"  # an SPDX expression
    attributions: tuple[str, ...] = ()  # what the licences of its parts and training data ask to be said
    files: dict[str, str] = field(default_factory=dict)  # of a local-dir: file name -> SHA-256
    templates: tuple[str, ...] = DEFAULT_TEMPLATES  # each has {label}
    embedding_dim: int | None = None  # these three are None where only loading can tell
    image_size: int | None = None  # pixels
    context_length: int | None = None  # tokens, both end tokens included
    drafts: bool = True  # large JPEGs may be decoded smaller; no: it takes the difference for more than it is
    weight_bytes: int | None = None  # in fp32
    needs_fp32: bool = False  # 16 bits turn some of its embeddings; a `dtype` of auto leaves it in fp32
    view_bytes: int | None = None  # what a view keeps in fp32 for the way back: python -m benchmarks.memory

    @property
    def scheme(self) -> str:
        return self.source.partition(":")[0]

    @property
    def place(self) -> str:
        """The source without its scheme."""
        return self.source.partition(":")[2]

    def local_folder(self, weights: Path) -> Path | None:
        """Where it lies on this machine; none: open_clip fetches it, or has it in its cache.

        A folder named after the card is taken in place of what the card would fetch.

        Args:
            weights: where relative folders start.
        """
        if self.scheme == "local-dir":
            return weights / self.place
        copy = weights / self.name
        return copy if (copy / CONFIG).is_file() else None


def available() -> list[str]:
    """The names that have a card."""
    return sorted(path.stem for path in CARDS.glob("*.toml"))


def find_card(name: str, weights: Path | None = None) -> ClipCard:
    """The card of that name, or one made for a name that says itself where the model is.

    `local-dir:/folder`, `hf-hub:ORG/NAME` and `open_clip:ARCHITECTURE/TAG` need no card; nothing but the
    model's own configuration is known of them.

    Args:
        weights: where a relative `local-dir:` without a card starts; needed to read its configuration only.

    Raises:
        UnknownClip: no card has that name and it is not a source either.
    """
    if name in available():
        with (CARDS / f"{name}.toml").open("rb") as file:
            return _card(name, tomllib.load(file))
    scheme, _, place = name.partition(":")
    if scheme not in SCHEMES or not place or (scheme == "open_clip" and "/" not in place):
        raise UnknownClip(
            f"no CLIP {name!r}; there are {', '.join(available())}, "
            "and local-dir:FOLDER, hf-hub:ORG/NAME and open_clip:ARCHITECTURE/TAG"
        )
    if scheme == "local-dir":
        return ClipCard(name, name, **_read_sizes((weights or Path()) / place / CONFIG))
    return ClipCard(name, name)


def _card(name: str, values: dict[str, Any]) -> ClipCard:
    """A card of what its TOML file says; a key it does not know is a TypeError."""
    for key in ("attributions", "templates"):
        if key in values:
            values[key] = tuple(values[key])
    return ClipCard(name, **values)


def _read_sizes(config: Path) -> dict[str, Any]:
    """The sizes that an open_clip configuration states; none if it cannot be read: loading says why."""
    try:
        model = cast(dict[str, Any], json.loads(config.read_text("utf-8"))["model_cfg"])
        image_size = model["vision_cfg"].get("image_size", 224)
        return {
            "embedding_dim": model["embed_dim"],
            "image_size": image_size if isinstance(image_size, int) else max(image_size),
            "context_length": model["text_cfg"].get("context_length", 77),
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
