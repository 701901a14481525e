"""The metadata of an image, out of the JSON file beside it."""

import json
from typing import Any

from storage.collections.image_fields import MetadataRefused, check_metadata
from workers.indexing.sources import EntryRefused


def parse(data: bytes, max_bytes: int) -> dict[str, Any]:
    """The metadata that a file holds.

    Raises:
        ImageRefused: it holds none; its image is not taken without them.
    """
    try:
        if len(data) > max_bytes:
            raise MetadataRefused("too_large", f"more than {max_bytes} bytes")
        return check_metadata(json.loads(data))
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, MetadataRefused) else "not JSON"
        raise EntryRefused("metadata_refused", f"the JSON file beside it: {why}") from error
