"""Lines of waiting jobs: each type of job has one, and workers of its own, so that none waits for others."""

from typing import Literal, get_args

JobType = Literal["draw", "index"]
TYPES: tuple[JobType, ...] = get_args(JobType)
PRIORITIES = ("high", "normal", "low")

_PREFIXES: dict[JobType, str] = {"draw": "", "index": "index-"}


def queue_name(job_type: JobType, priority: str) -> str:
    """The queue of RQ with the tickets of those jobs."""
    return _PREFIXES[job_type] + priority


def queue_names(job_type: JobType) -> list[str]:
    """The queues of RQ that a line's workers read, the most urgent first."""
    return [queue_name(job_type, priority) for priority in PRIORITIES]


def first_rank(job_type: JobType) -> int:
    """Of a line's priorities: the script of the record counts through those of all lines."""
    return TYPES.index(job_type) * len(PRIORITIES)


def rank(job_type: JobType, priority: str) -> int:
    """The place of a priority among those of all lines."""
    return first_rank(job_type) + PRIORITIES.index(priority)
