"""What a CLIP's folder holds beside its weights: a configuration, and the files of a tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.catalog.download import Absent
from models.clip.cards import ClipCard
from models.weights_io.card import Download

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
TOKENIZER_TOO = ("special_tokens_map.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
"""Some tokenizers have these."""

TOWER = "config.json"
"""How transformers build the text tower, of CLIPs that have it from there."""

_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")

FetchOne = Callable[[str, str], None]
"""Fetches a file of a hub's repository into the folder."""


class NotInOpenClip(LookupError):
    """open_clip knows no such architecture, or no such tag of it."""


def config_of(card: ClipCard) -> dict[str, Any]:
    """`open_clip_config.json` of a CLIP that open_clip has: of the architecture as the tag was trained.

    Raises:
        NotInOpenClip
    """
    import open_clip

    architecture, tag = _told(card)
    model = open_clip.get_model_config(architecture)
    # OpenAI's and some others were trained with QuickGELU: with GELU they load and are wrong (open_clip 771)
    model |= {"quick_gelu": True} if tag.get("quick_gelu") else {}
    return {"model_cfg": model, "preprocess_cfg": {key: tag[key] for key in _PREPROCESSING if key in tag}}


def downloads_of(card: ClipCard) -> tuple[Download, ...]:
    """Where open_clip itself would fetch it.

    Raises:
        NotInOpenClip
    """
    _, tag = _told(card)
    repository = tag.get("hf_hub", "").rstrip("/")
    if repository.count("/") == 1:
        return (Download(hub=repository),)
    return (Download(url=tag["url"]),) if tag.get("url") else ()


def fetch_tokenizer(model: dict[str, Any], repository: str | None, fetch: FetchOne) -> None:
    """Fetch the files of the tokenizer and of the text tower that transformers build, if it has such.

    Args:
        model: the `model_cfg` of its configuration.
        repository: of its weights, which may hold them as well.
    """
    text = model.get("text_cfg", {})
    if name := text.get("hf_model_name"):
        fetch(name, TOWER)
    name = text.get("hf_tokenizer_name")
    if not name:
        return
    try:
        if repository is None:
            raise Absent("the weights are not from a hub")
        fetch(repository, TOKENIZER[0])
        name = repository
    except Absent:
        fetch(name, TOKENIZER[0])
    for file in TOKENIZER[1:]:
        fetch(name, file)
    for file in TOKENIZER_TOO:
        try:
            fetch(name, file)
        except Absent:
            continue


def _told(card: ClipCard) -> tuple[str, dict[str, Any]]:
    """The architecture, and what open_clip knows of the tag."""
    from open_clip.pretrained import get_pretrained_cfg

    architecture, _, tag = card.place.partition("/")
    told = get_pretrained_cfg(architecture, tag)
    if card.scheme != "open_clip" or not told:
        raise NotInOpenClip(f"open_clip has no {card.place.replace('/', ' with the tag ')}")
    return architecture, dict(told)


def is_safetensors(path: Path) -> bool:
    """Whether a file is one, whatever its name: it begins with the length of a header, which is JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size
