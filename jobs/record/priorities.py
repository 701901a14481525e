"""Types and priorities of jobs, and RQ's queues with their tickets. Each type has workers of its own."""

from typing import Literal, get_args

JobType = Literal["draw", "index"]
TYPES: tuple[JobType, ...] = get_args(JobType)
PRIORITIES = ("high", "normal", "low")

_PREFIXES: dict[JobType, str] = {"draw": "", "index": "index-"}


def ticket_queue(job_type: JobType) -> str:
    """RQ's queue with one ticket for each waiting job of a type.

    A ticket wakes a worker. Which job the worker then starts, the record decides.
    """
    return f"{_PREFIXES[job_type]}normal"


def queue_names(job_type: JobType) -> list[str]:
    """RQ's queues that the workers of a type read: the ticket queue first, then those that 0.1 filled."""
    return sorted(
        (_PREFIXES[job_type] + priority for priority in PRIORITIES),
        key=lambda name: name != ticket_queue(job_type),
    )


def first_rank(job_type: JobType) -> int:
    """The rank of a type's highest priority: the script of the record counts through those of all types."""
    return TYPES.index(job_type) * len(PRIORITIES)


def rank(job_type: JobType, priority: str) -> int:
    """The place of a priority among those of all types."""
    return first_rank(job_type) + PRIORITIES.index(priority)
