"""The networks that generators draw with: named by their cards, each loaded once and shared."""

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.clip.encoder import ClipNetwork
    from models.prior import Prior
    from models.vqgan.network import Vqgan

WEIGHTS = Path(__file__).parent / "weights"
"""Where the demo models lie, and where a card's relative paths start unless a setting says otherwise."""


@dataclass(frozen=True)
class NetworkNames:
    """Which networks to draw with, and where and how to run them."""

    vqgan: str = "demo"
    clips: tuple[str, ...] = ("demo-icons",)
    weights: Path = WEIGHTS
    device: str = "auto"  # auto | cpu | cuda | cuda:1 | mps
    dtype: str = "fp32"  # of CLIP; fp32 | bf16 | fp16
