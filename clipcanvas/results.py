"""What the service's answers hold, as frozen values; fields that a newer service adds are kept."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

JobStatus = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class LabelScore(_Answer):
    """How well one label fits one image."""

    label: str
    probability: float  # 0 … 1
    similarity: float  # cosine, -1 … 1


class Classification(_Answer):
    """One image's labels, best first."""

    index: int
    labels: tuple[LabelScore, ...]


class Classifications(_Answer):
    """The answer to `classify`: one entry for each image, in the order sent."""

    model: str
    data: tuple[Classification, ...]
    usage: dict[str, int] = {}

    @property
    def best(self) -> str:
        """The first image's most probable label."""
        return self.data[0].labels[0].label


class Embedding(_Answer):
    """One input's vector, of unit length."""

    index: int
    embedding: tuple[float, ...]  # (D,)


class Embeddings(_Answer):
    """The answer to `embed`: one vector for each input, in the order sent."""

    model: str
    data: tuple[Embedding, ...]
    usage: dict[str, int] = {}

    @property
    def vectors(self) -> list[tuple[float, ...]]:
        """The vectors alone, N of D numbers."""
        return [row.embedding for row in self.data]


class RankedCandidate(_Answer):
    """A candidate's place in the answer to `rank`."""

    index: int  # in the list of candidates sent
    similarity: float  # cosine, -1 … 1


class Ranking(_Answer):
    """The answer to `rank`, best first."""

    model: str
    data: tuple[RankedCandidate, ...]


class Progress(_Answer):
    """How far a job is."""

    step: int = 0
    steps: int = 0
    fraction: float = 0.0  # 0 … 1
    loss: float | None = None
    eta_s: float | None = None
    steps_per_s: float | None = None
    preview: str | None = None  # URL of the newest preview


class Output(_Answer):
    """A file that a job made."""

    name: str
    url: str
    content_type: str
    width: int | None = None  # pixels
    height: int | None = None
    seed: int | None = None
    clip_score: float | None = None  # cosine of picture and prompt


class JobProblem(_Answer):
    """Why a job failed."""

    code: str
    detail: str
    retryable: bool = False


class Job(_Answer):
    """A job at one moment."""

    id: str
    status: JobStatus
    type: str = "draw"
    seq: int = 0
    generator: str | None = None
    request: dict[str, Any] = {}
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    attempt: int = 1
    queue_position: int | None = None  # 0 is next
    progress: Progress | None = None
    outputs: tuple[Output, ...] = ()
    error: JobProblem | None = None
    metadata: dict[str, Any] = {}

    @property
    def is_final(self) -> bool:
        """Whether it never changes any more."""
        return self.status not in ("queued", "running")


class JobPage(_Answer):
    """Some jobs, newest first; pass `last_id` as `after` for the next ones."""

    data: tuple[Job, ...]
    has_more: bool = False
    last_id: str | None = None


class Event(_Answer):
    """Something that happened to a job."""

    id: str
    type: str  # status, progress, preview, completed
    data: dict[str, Any] = {}

    @property
    def progress(self) -> Progress | None:
        """How far the job is, if the event tells."""
        return Progress.model_validate(self.data) if self.type == "progress" else None

    @property
    def preview(self) -> Output | None:
        """A picture of how the drawing looks, if the event brings one."""
        return Output.model_validate(self.data) if self.type == "preview" else None

    @property
    def job(self) -> Job | None:
        """The whole job, if it is final."""
        return Job.model_validate(self.data) if self.type == "completed" else None


class ModelCard(_Answer):
    """A CLIP that the service offers."""

    id: str
    embedding_dim: int | None = None
    image_size: int | None = None  # pixels
    context_length: int | None = None  # tokens
    license: str | None = None
    loaded: bool | None = None


class GeneratorCard(_Answer):
    """A way of drawing that the service offers; `options` is the JSON Schema of what `options` may hold."""

    name: str
    description: str = ""
    options: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    limits: dict[str, Any] = {}


class QueueState(_Answer):
    """How busy the service is."""

    queued: int
    running: int
    workers: Any = None


class Readiness(_Answer):
    """Whether the service is ready, and each part's own state."""

    ready: bool
    parts: dict[str, str] = {}


class Prompt(_Answer):
    """What to draw towards (or, with a negative weight, away from): a text or an image, not both.

    Args:
        image: a path, the bytes of a file, or a PIL image.
        weight: -10 … 10.
        stop: signed distance below which this prompt no longer pulls.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    text: str | None = None
    image: Any = None
    weight: float = 1.0
    stop: float | None = None
