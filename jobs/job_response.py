"""A job as clients see it: in the API's answers, and in what webhooks are told."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from jobs.record.record import Frame, Job, Output, Progress


class ProgressAnswer(BaseModel):
    """How far a running job is, over all of its images."""

    step: int
    steps: int
    fraction: float
    loss: float | None
    eta_s: float | None
    steps_per_s: float | None
    preview: str | None
    counts: dict[str, int] | None = Field(
        description="of a job that indexes: images added, replaced, known already, and refused"
    )


class OutputAnswer(BaseModel):
    """A file of a job."""

    name: str
    kind: str = Field(
        description="image, sidecar, svg, thumbnail, contact_sheet, video, frames, report; in events: preview"
    )
    url: str
    content_type: str
    width: int | None
    height: int | None
    seed: int | None
    clip_score: float | None = Field(description="cosine of image and prompts, by the CLIPs that guided")
    held_out_score: float | None = Field(description="likewise, by a CLIP that did not")


class FrameAnswer(BaseModel):
    """A frame of a film, there while the job runs."""

    name: str
    url: str
    image: int
    frame: int
    step: int


class JobErrorAnswer(BaseModel):
    """Why a job failed."""

    code: str
    detail: str
    retryable: bool


class JobAnswer(BaseModel):
    """A job at one moment."""

    id: str
    object: Literal["job"] = "job"
    type: str
    status: str
    seq: int
    priority: str
    generator: str | None = Field(description="of a job that draws")
    request: dict[str, Any]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    cancel_requested_at: datetime | None
    attempt: int
    queue_position: int | None
    progress: ProgressAnswer | None
    outputs: list[OutputAnswer]
    error: JobErrorAnswer | None
    metadata: dict[str, str]


def view(job: Job) -> JobAnswer:
    """A job as the client sees it."""
    return JobAnswer(
        id=job.id,
        type=job.type,
        status=job.status,
        seq=job.seq,
        priority=job.priority,
        generator=job.drawing.generator if job.type == "draw" else None,
        request=job.request.model_dump(mode="json"),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        expires_at=job.expires_at,
        cancel_requested_at=job.cancel_requested_at,
        attempt=job.attempt,
        queue_position=job.queue_position,
        progress=view_progress(job.id, job.progress) if job.progress else None,
        outputs=[view_output(job.id, output) for output in job.outputs],
        error=JobErrorAnswer(**vars(job.error)) if job.error else None,
        metadata=job.metadata or {},
    )


def view_progress(job_id: str, progress: Progress) -> ProgressAnswer:
    """How far a job is, as the client sees it."""
    return ProgressAnswer(
        step=progress.step,
        steps=progress.steps,
        fraction=round(progress.step / progress.steps, 4) if progress.steps else 0.0,
        loss=progress.loss,
        eta_s=progress.eta_s,
        steps_per_s=progress.steps_per_s,
        preview=url(job_id, progress.preview.name) if progress.preview else None,
        counts=progress.counts,
    )


def view_output(job_id: str, output: Output) -> OutputAnswer:
    """A file of a job, as the client sees it."""
    fields = {name: value for name, value in vars(output).items() if name != "key"}
    return OutputAnswer(url=url(job_id, output.name), **fields)


def view_frame(job_id: str, frame: Frame) -> FrameAnswer:
    """A frame of a running job's film, as the client sees it."""
    return FrameAnswer(url=url(job_id, frame.name), **vars(frame))


def url(job_id: str, name: str) -> str:
    """Where a file of a job is fetched."""
    return f"/v1/jobs/{job_id}/outputs/{name}"
