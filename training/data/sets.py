"""The sets of pictures: the packages they come in, their licenses, and how often training draws from each.

None of those trained on asks that what is made of it be shared alike, or not sold. Those under CC-BY-4.0 ask
for the attribution that the weights' cards carry.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one vendor, in one package."""

    name: str
    registry: Literal["npm", "apt"]
    package: str  # of npm with its version
    license: str  # as SPDX writes it
    attribution: str
    weight: float  # of its pictures in a batch of training
    is_held_out: bool = False  # to measure with, never to train on


def _icons(name: str, version: str, license: str, attribution: str, weight: float) -> PictureSet:
    return PictureSet(name, "npm", f"@iconify-json/{name}@{version}", license, attribution, weight)


_STREAMLINE = "Streamline (streamlinehq.com)"

TRAINING = (
    _icons("noto", "1.2.9", "Apache-2.0", "Noto Emoji (Google)", 1),
    _icons("noto-v1", "1.2.5", "Apache-2.0", "Noto Emoji, first version (Google)", 1),
    _icons("twemoji", "1.2.5", "CC-BY-4.0", "Twemoji (Twitter and contributors)", 1),
    _icons("emojione", "1.2.3", "CC-BY-4.0", "EmojiOne 2 (Ranks.com, EmojiOne)", 1),
    _icons("fluent-emoji", "1.2.7", "MIT", "Fluent Emoji (Microsoft)", 1),
    _icons("fluent-emoji-flat", "1.2.6", "MIT", "Fluent Emoji Flat (Microsoft)", 1),
    _icons("fxemoji", "1.2.2", "Apache-2.0", "FxEmojis (Mozilla)", 0.7),
    _icons("streamline-emojis", "1.2.4", "CC-BY-4.0", _STREAMLINE, 0.8),
    _icons("streamline-plump-color", "1.2.2", "CC-BY-4.0", _STREAMLINE, 0.25),
    _icons("streamline-color", "1.2.2", "CC-BY-4.0", _STREAMLINE, 0.15),
    _icons("streamline-ultimate-color", "1.2.2", "CC-BY-4.0", _STREAMLINE, 0.4),
    _icons("streamline-kameleon-color", "1.2.2", "CC-BY-4.0", _STREAMLINE, 0.5),
    _icons("streamline-freehand-color", "1.2.2", "CC-BY-4.0", _STREAMLINE, 0.2),
    _icons("streamline-stickies-color", "1.2.2", "CC-BY-4.0", _STREAMLINE, 0.2),
    _icons("flat-color-icons", "1.2.3", "MIT", "Flat Color Icons (Icons8)", 0.5),
    _icons("flat-ui", "1.2.3", "MIT", "Flat UI", 0.5),
    _icons("fluent-color", "1.2.21", "MIT", "Fluent UI color icons (Microsoft)", 0.3),
    _icons("meteocons", "1.2.4", "MIT", "Meteocons", 0.3),
    _icons("circle-flags", "1.2.11", "MIT", "Circle Flags", 0.3),
    PictureSet(
        "openclipart", "apt", "openclipart-png", "public domain", "Open Clip Art Library (Debian)", 0.5
    ),
)

HELD_OUT = (
    PictureSet(
        name="openmoji",
        registry="npm",
        package="@iconify-json/openmoji@1.2.29",
        license="CC-BY-SA-4.0",
        attribution="OpenMoji",
        weight=0,
        is_held_out=True,
    ),
    PictureSet(
        name="tuxpaint",
        registry="apt",
        package="tuxpaint-stamps-default",
        license="GPL-2.0-or-later",
        attribution="Tux Paint stamps",
        weight=0,
        is_held_out=True,
    ),
)

BY_NAME = {chosen.name: chosen for chosen in (*TRAINING, *HELD_OUT)}

KEYWORDS = "emojilib@4.0.3"
"""The npm package of names and keywords of emoji, MIT."""

WORDS = "wordnet-base"
"""The Debian package of WordNet 3.0, © 2006 Princeton University, WordNet license."""
