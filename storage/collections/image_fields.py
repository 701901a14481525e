"""What the id and the metadata of a collection's image may be; over HTTP and in files the same."""

import re
from typing import Any

MAX_ID_CHARS = 256
MAX_NAMES = 64  # in the metadata of an image
METADATA_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]{0,63}")
_SCALARS = (str, int, float, bool, type(None))


class MetadataRefused(ValueError):
    """Metadata that filters could not read.

    Attributes:
        code: a stable word for programs.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def is_image_id(text: str) -> bool:
    """Whether it can be the id of an image: it must survive being part of a URL's path."""
    return (
        1 <= len(text) <= MAX_ID_CHARS
        and text.isprintable()
        and not any(part in ("", ".", "..") for part in text.split("/"))
    )


def check_metadata(value: Any) -> dict[str, Any]:
    """The metadata themselves, as JSON was parsed.

    Raises:
        MetadataRefused: they are none.
    """
    if not isinstance(value, dict):
        raise MetadataRefused("dict_type", "this must be an object")
    if len(value) > MAX_NAMES:
        raise MetadataRefused("metadata_size", f"at most {MAX_NAMES} names are allowed")
    for name, entry in value.items():
        if not isinstance(name, str) or not METADATA_NAME.fullmatch(name):
            raise MetadataRefused(
                "metadata_name",
                "a name in metadata has 1 to 64 letters, digits and _, and does not start with a digit",
            )
        entries = entry if isinstance(entry, list) else [entry]
        if not all(isinstance(item, _SCALARS) for item in entries):
            raise MetadataRefused(
                "metadata_value", "metadata are texts, numbers, true, false, null, or lists of those"
            )
        if any(isinstance(item, str) and _broken(item) for item in entries):
            raise MetadataRefused("string_unicode", "this is not Unicode text")
    return value


def _broken(text: str) -> bool:
    return text.encode("utf-8", "replace").decode() != text  # half of a surrogate pair
