"""The names of the networks that generators draw with."""

from dataclasses import dataclass
from pathlib import Path

from models.weights_io.card import WEIGHTS


@dataclass(frozen=True)
class NetworkNames:
    """The networks to draw with, their device and their precision."""

    vqgan: str = "demo"
    clips: tuple[str, ...] = ("demo-icons",)
    held_out: str | None = None  # a CLIP that scores drawings and guides none
    min_dalle: str = "min-dalle-mini"
    unclip: tuple[str, ...] = ("karlo-v1-alpha",)  # models whose parts go together
    generators: tuple[str, ...] = ()  # those that are loaded, if known: what they hold takes memory for all
    weights: Path = WEIGHTS
    device: str = "auto"  # auto | cpu | cuda | cuda:1 | mps
    dtype: str = "fp32"  # fp32 | bf16 | fp16, which is of CLIP alone
