"""Where a card's weights can be fetched, and which folder of the weights they come to. Needs no torch."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, model_validator

WEIGHTS = Path(__file__).parents[1] / "weights"
"""The folder of the demo models, from which a card's relative paths start unless a setting says otherwise."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Model:
    """A model that a generator draws with, as clients are told of it."""

    name: str
    description: str
    license: str
    source: str
    attributions: tuple[str, ...]


class Download(BaseModel, frozen=True, extra="forbid"):
    """One place on the internet that has the weights."""

    hub: str | None = None
    """`OWNER/NAME` of a repository on the Hugging Face hub, in open_clip's layout."""

    url: str | None = None
    """Or the address of one file: a checkpoint, or safetensors."""

    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Of that file; none: nobody has published it."""

    mib: int | None = None
    """About how large the file is, in MiB; none: as its fp32 weights."""

    @model_validator(mode="after")
    def _one_place(self) -> "Download":
        if (self.hub is None) == (self.url is None):
            raise ValueError("a download is of either a hub's repository or a URL")
        return self

    @property
    def place(self) -> str:
        """Either of them."""
        return self.url or f"hf-hub:{self.hub}"


@dataclass(frozen=True)
class CardFolder:
    """The cards of one kind: those beside the code, `<name>.toml`, and a user's own among the weights.

    Attributes:
        folder: of the cards beside the code.
        own: the file name of a user's own card, in the folder of its model among the weights.
    """

    folder: Path
    own: str

    def names(self, weights: Path | None = None) -> list[str]:
        """The names of the cards, sorted; with a user's own if the folder of weights is given."""
        own = [] if weights is None else [path.parent.name for path in weights.glob(f"*/{self.own}")]
        return sorted({*(path.stem for path in self.folder.glob("*.toml")), *own})

    def find(self, name: str, weights: Path | None = None) -> Path | None:
        """The file of a model's card; None if there is none. A card beside the code comes first."""
        paths = (self.folder / f"{name}.toml", (weights or Path()) / name / self.own)
        return next((path for path in paths if is_model_name(name) and path.is_file()), None)

    def read(self, name: str, weights: Path | None = None) -> dict[str, Any] | None:
        """The fields of a model's card, with its name; None if there is none."""
        path = self.find(name, weights)
        return None if path is None else {**tomllib.loads(path.read_text("utf-8")), "name": name}


def folder_of(name: str) -> str:
    """The folder within the weights of a model of that name: `hf-hub:OWNER/NAME` has a folder as well."""
    return re.sub("[:/]", "--", name)


def is_model_name(name: str) -> bool:
    """Whether somebody may call a model of their own so: it becomes the name of a folder."""
    return _NAME.fullmatch(name) is not None


def how_to_fetch(name: str) -> str:
    """What to type where the weights of a model are missing."""
    return f"`clipcanvas models pull {name}` fetches them"
