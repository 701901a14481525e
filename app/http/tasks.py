"""Work side by side: if one fails the others are cancelled, and its error is raised as it is."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")


async def all_of(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What comes of each, in order."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """What comes of two works of different types."""
    results: list[Any] = await all_of([first, second])
    return results[0], results[1]
