"""How Schemathesis sends the bodies that are neither JSON nor forms: as they are."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson", "application/x-tar")
def as_it_is(context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
