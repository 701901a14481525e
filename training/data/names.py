"""What vendors' file names say is on a picture."""

import re

_SKIN_TONE = re.compile(r"skin-tone|-(type|fitzpatrick)-?\d|tone\d")
_SIZE = re.compile(r"-(16|20|24|28|32|48)$")
_NOT_WORDS = re.compile(
    r"\d+[a-z]?|[a-z]|ar|bw|psd|svg|clipart|design|"  # sizes, drafts, formats
    r"aj|architetto|ash|automatic|benji|buculei|frances[a-z]*|ganso|ganson|ger|gerald|johnny|jon|jorkon|jr|lechner|liftarn|"
    r"lumen|luiz|machovka|mois|molumen|nicu|park|phillips|rinc[a-z]*|ryanlerch|sergio|tom|zeimusu"  # artists
)


def words(name: str) -> str:
    """`red_heart` -> `red heart`"""
    return re.sub(r"[-_\s]+", " ", name).strip().lower()


def of_icon(vendor: str, key: str) -> str | None:
    """The name of an icon; none: it is a variant to leave out."""
    if _SKIN_TONE.search(key):
        return None
    match vendor:
        case "fluent-color":
            if not re.search(r"-(48|32|28|24)$", key):
                return None
        case "fluent-emoji" | "fluent-emoji-flat":
            if re.search(r"-(dark|light|medium|default)", key):
                return None
        case "circle-flags":
            return f"flag {key}" if len(key) == 2 else None
        case "meteocons":
            key = key.removesuffix("-fill")
        case "streamline-emojis" | "streamline-plump-color" | "flat-color-icons":
            key = re.sub(r"-(flat|remix|duo)$", "", key)
        case _ if vendor.startswith("streamline"):
            if key.endswith("-flat"):
                return None
            key = re.sub(r"-(remix|duo)$", "", key)
    key = _SIZE.sub("", key)
    if vendor.startswith("streamline"):
        key = re.sub(r"-\d$", "", key)
    return words(re.sub(r"^flag-for-(flag-)?", "flag-", key)) or None


def of_clip_art(stem: str) -> str:
    """The first words of a file's name, without artists' and numbers; empty: there are none."""
    found = re.split(r"[-_.\s]+", stem.replace(".svg", "_"))
    kept = [word for word in found if word and not _NOT_WORDS.fullmatch(word)]
    name = words(" ".join(kept[:5]))
    return name if len(name) >= 3 else ""


def of_stamp(caption: str) -> str:
    """`A lion. It roars!` -> `lion`"""
    first = re.sub(r"[.!?].*$", "", caption.lower()).strip()
    return re.sub(r"^(an?|the|some|two|three)\s+", "", first)
