"""Prompts: how the field writes them in one line, which of them no guide can read, and their distractors."""

import html
import re

from models.clip.cards import find_card
from models.requests.network_names import NetworkNames
from models.requests.options import GuideOptions
from models.requests.request import MAX_PROMPTS, GenerationRequest, InvalidRequest, Prompt

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
"""RGB in [0, 1] of the colors of icons."""

THINGS = (
    *("a cat", "a house", "a flower", "a dog", "a hat", "a guitar", "a tree", "a star", "a face", "a ball"),
    *("a fish", "a clock", "a book", "a shoe", "a cup", "a bird", "a plane", "the sun", "the moon", "a key"),
    *("a hand", "a cake", "a bell", "a lamp", "a box"),
)
"""Things of all kinds, as distractors."""

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_TIME = re.compile(r"(^|\s)([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d)?$")


def parse(line: str) -> tuple[Prompt, ...]:
    """The prompts of one line: `a lighthouse in fog | blurry:-0.3 ^ a lighthouse at night`.

    `|` separates prompts and `^` phases, which have equal shares of the steps; empty ones are ignored. A
    prompt is `text`, `text:weight` or `text:weight:stop`. Numbers are read from the right, up to the first
    part that is no number: a colon inside a text stays in the text, as in a time such as 10:30.

    Raises:
        ValueError: no prompt is left, there are too many, or one's weight or stop is out of range.
    """
    phases = [[part.strip() for part in phase.split("|") if part.strip()] for phase in line.split("^")]
    phases = [phase for phase in phases if phase]
    count = sum(map(len, phases))
    if not count:
        raise ValueError("expected a prompt, got an empty text")
    if count > MAX_PROMPTS:
        raise ValueError(f"expected at most {MAX_PROMPTS} prompts, got {count}")
    return tuple(
        _parse_one(part, begin=place / len(phases), end=(place + 1) / len(phases))
        for place, phase in enumerate(phases)
        for part in phase
    )


def check_prompts(request: GenerationRequest, options: GuideOptions, names: NetworkNames) -> None:
    """Check a request's prompts by the cards of the guides.

    The exact number of a text's tokens needs the network: a text may still be too long.

    Raises:
        InvalidRequest: a text is certainly too long for a guide, a vector does not fit the first one, or
            `guide_weights` name a CLIP that does not guide, or leave none that does.
    """
    weights = options.guide_weights
    for name in weights:
        if name not in names.clips:
            known = ", ".join(names.clips)
            raise InvalidRequest(
                "/options/guide_weights", "unknown_guide", f"no guide {name!r}; there are {known}"
            )
    guides = [name for name in names.clips if weights.get(name, 1)]
    if not guides:
        raise InvalidRequest("/options/guide_weights", "no_guide", "at least one guide must count")
    for index, prompt in enumerate(request.prompts):
        if prompt.vector is not None:
            _check_vector(prompt.vector, f"/prompts/{index}/vector", weights, names)
        if prompt.text is not None:
            filled = [template.replace("{prompt}", prompt.text) for template in options.templates]
            _check_length(filled, f"/prompts/{index}/text", guides, names)


def distractors(text: str) -> tuple[str, ...]:
    """Texts to tell a text from: itself in other colors, and things that it does not name."""
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


def _parse_one(part: str, begin: float, end: float) -> Prompt:
    text, numbers = part, list[float]()
    while len(numbers) < 2 and not _TIME.search(text):
        head, colon, tail = text.rpartition(":")
        if not colon or not head.strip() or not _NUMBER.fullmatch(tail):
            break
        text = head.rstrip()
        numbers.insert(0, float(tail))
    weight, stop = [*numbers, None, None][:2]
    return Prompt(text=text, weight=1.0 if weight is None else weight, stop=stop, begin=begin, end=end)


def _check_vector(
    vector: tuple[float, ...], pointer: str, weights: dict[str, float], names: NetworkNames
) -> None:
    first = find_card(names.clips[0], names.weights)
    if not weights.get(first.name, 1):
        raise InvalidRequest(
            pointer, "no_guide", f"a vector is an embedding of {first.name}, whose weight is 0"
        )
    if first.embedding_dim not in (None, len(vector)):
        raise InvalidRequest(
            pointer,
            "wrong_dimension",
            f"expected {first.embedding_dim} numbers, an embedding of {first.name}, got {len(vector)}",
        )
    if not any(vector):
        raise InvalidRequest(pointer, "no_direction", "a vector of zeros has no direction")


def _check_length(texts: list[str], pointer: str, guides: list[str], names: NetworkNames) -> None:
    # a word is one token at least, if anything in it is a letter or a digit, and an end token follows
    tokens = 1 + max(
        sum(any(map(str.isalnum, word)) for word in html.unescape(text).split()) for text in texts
    )
    for name in guides:
        limit = find_card(name, names.weights).context_length
        if limit is not None and tokens > limit:
            raise InvalidRequest(
                pointer,
                "text_too_long",
                f"{name} reads texts of up to {limit} tokens; in its template this one has {tokens} or more",
            )
