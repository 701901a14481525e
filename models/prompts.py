"""The field's way to write prompts in one line: `a lighthouse in fog | blurry:-0.3 | text:weight:stop`."""

import re

from models.requests import MAX_PROMPTS, Prompt

COLORS = {
    "red": (0.86, 0.15, 0.18),
    "orange": (0.95, 0.55, 0.13),
    "yellow": (1.0, 0.8, 0.2),
    "green": (0.35, 0.7, 0.25),
    "blue": (0.2, 0.5, 0.85),
    "purple": (0.6, 0.35, 0.75),
    "pink": (0.95, 0.5, 0.7),
    "brown": (0.55, 0.35, 0.22),
    "black": (0.15, 0.15, 0.17),
    "white": (0.93, 0.93, 0.95),
    "gray": (0.6, 0.6, 0.62),
}
"""RGB in [0, 1]: what icons have under these names."""

THINGS = (
    *("a cat", "a house", "a flower", "a dog", "a hat", "a guitar", "a tree", "a star", "a face", "a ball"),
    *("a fish", "a clock", "a book", "a shoe", "a cup", "a bird", "a plane", "the sun", "the moon", "a key"),
    *("a hand", "a cake", "a bell", "a lamp", "a box"),
)
"""Things of all kinds, to tell a text from."""

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


def parse(line: str) -> tuple[Prompt, ...]:
    """The prompts of one line, separated by `|`; empty ones are left out.

    A prompt is `text`, `text:weight` or `text:weight:stop`. Numbers are read from the right and the first
    part that is no number ends them, so a colon in a text stays in it.

    Raises:
        ValueError: no prompt is left, there are too many, or one's weight or stop is out of range.
    """
    parts = [part.strip() for part in line.split("|") if part.strip()]
    if not parts:
        raise ValueError("expected a prompt, got an empty text")
    if len(parts) > MAX_PROMPTS:
        raise ValueError(f"expected at most {MAX_PROMPTS} prompts, got {len(parts)}")
    return tuple(_parse_one(part) for part in parts)


def rivals(text: str) -> tuple[str, ...]:
    """What a picture of a text is not: the same in other colors, and things that the text does not name."""
    words = _words(text)
    recolored = [
        " ".join([*words[:place], color, *words[place + 1 :]])
        for place, word in enumerate(words)
        if word in COLORS
        for color in COLORS
        if color != word
    ]
    return (*recolored, *(thing for thing in THINGS if thing.split()[1] not in words))


def color_of(text: str) -> tuple[float, float, float] | None:
    """The first color that a text names, as RGB in [0, 1]."""
    return next((COLORS[word] for word in _words(text) if word in COLORS), None)


def _words(text: str) -> list[str]:
    return [word.strip(".,;:!?'\"").replace("grey", "gray") for word in text.lower().split()]


def _parse_one(part: str) -> Prompt:
    text, numbers = part, list[float]()
    while len(numbers) < 2:
        head, colon, tail = text.rpartition(":")
        if not colon or not head.strip() or not _NUMBER.fullmatch(tail):
            break
        text = head.rstrip()
        numbers.insert(0, float(tail))
    weight, stop = [*numbers, None, None][:2]
    return Prompt(text=text, weight=1.0 if weight is None else weight, stop=stop)
