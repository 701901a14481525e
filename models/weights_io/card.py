"""Where a card's weights can be fetched, and which folder of the weights they come to. Needs no torch."""

import re
from dataclasses import dataclass
from pathlib import Path

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


def folder_of(name: str) -> str:
    """The folder within the weights of a model of that name: `hf-hub:OWNER/NAME` has a folder as well."""
    return re.sub("[:/]", "--", name)


def is_model_name(name: str) -> bool:
    """Whether somebody may call a model of their own so: it becomes the name of a folder."""
    return _NAME.fullmatch(name) is not None


def how_to_fetch(name: str) -> str:
    """What to type where the weights of a model are missing."""
    return f"`clipcanvas models pull {name}` fetches them"
