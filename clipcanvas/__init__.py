"""Clipcanvas from the outside: a typed client for programs, a command line for people, and the launcher.

from clipcanvas import Client

with Client("http://127.0.0.1:8000") as client:
    print(client.classify("cat.jpg", ["cat", "dog"]).best)
    client.draw("a red heart").save("heart.png")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipcanvas.client.async_client import AsyncClient
    from clipcanvas.client.batches import Many
    from clipcanvas.client.client import Client
    from clipcanvas.client.collections.results import NewImage, QueryPart
    from clipcanvas.client.errors import (
        ApiError,
        ClipcanvasError,
        JobCanceled,
        JobExpired,
        JobFailed,
        JobUnsuccessful,
        Unreachable,
        WaitTimeout,
    )
    from clipcanvas.client.job import AsyncClientJob, ClientJob
    from clipcanvas.client.results import Event, Job, Prompt

_HOMES = {
    "clipcanvas.client.batches": ("Many",),
    "clipcanvas.client.async_client": ("AsyncClient",),
    "clipcanvas.client.client": ("Client",),
    "clipcanvas.client.collections.results": ("NewImage", "QueryPart"),
    "clipcanvas.client.errors": (
        "ApiError",
        "ClipcanvasError",
        "JobCanceled",
        "JobExpired",
        "JobFailed",
        "JobUnsuccessful",
        "Unreachable",
        "WaitTimeout",
    ),
    "clipcanvas.client.job": ("AsyncClientJob", "ClientJob"),
    "clipcanvas.client.results": ("Event", "Job", "Prompt"),
}

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncClientJob",
    "Client",
    "ClientJob",
    "ClipcanvasError",
    "Event",
    "Job",
    "JobCanceled",
    "JobExpired",
    "JobFailed",
    "JobUnsuccessful",
    "Many",
    "NewImage",
    "Prompt",
    "QueryPart",
    "Unreachable",
    "WaitTimeout",
]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use, so that `clipcanvas --help` imports no httpx."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
