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


class RefusedItem(_Answer):
    """An input of a bulk request that has no vector, and why."""

    index: int
    error: dict[str, str]  # code and detail


class BulkEmbeddings(_Answer):
    """The answer to `embed_bulk`: a row for each input, in the order sent."""

    model: str
    data: tuple[Embedding | RefusedItem, ...]


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
    counts: dict[str, int] | None = None  # of a job that indexes: added, replaced, known, refused


class Output(_Answer):
    """A file that a job made."""

    name: str
    url: str
    content_type: str
    width: int | None = None  # pixels
    height: int | None = None
    seed: int | None = None
    clip_score: float | None = None  # cosine of image and prompts, by the guiding CLIPs
    held_out_score: float | None = None  # likewise, by a held-out CLIP
    kind: str = "image"  # sidecar, svg, thumbnail, contact_sheet, video, frames; of an event: preview


class Frame(_Answer):
    """A frame of a video, which can be fetched while its job runs."""

    name: str
    url: str
    image: int
    frame: int  # 0 is the first
    step: int


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

    @property
    def pictures(self) -> tuple[Output, ...]:
        """The outputs that are images of the drawing, in order."""
        return tuple(output for output in self.outputs if output.kind == "image")

    def picture(self, index: int = 0) -> Output:
        """One of the images.

        Raises:
            IndexError: the job has no such image, or none yet.
        """
        if not 0 <= index < len(self.pictures):
            raise IndexError(f"no image {index}: job {self.id} is {self.status} and has {len(self.pictures)}")
        return self.pictures[index]


class JobPage(_Answer):
    """Some jobs, newest first; pass `last_id` as `after` for the next ones."""

    data: tuple[Job, ...]
    has_more: bool = False
    last_id: str | None = None


class Event(_Answer):
    """Something that happened to a job."""

    id: str
    type: str  # status, progress, preview, frame, completed
    data: dict[str, Any] = {}

    @property
    def progress(self) -> Progress | None:
        """The progress of the job, if the event brings it."""
        return Progress.model_validate(self.data) if self.type == "progress" else None

    @property
    def preview(self) -> Output | None:
        """A preview of the drawing, if the event brings one."""
        return Output.model_validate(self.data) if self.type == "preview" else None

    @property
    def frame(self) -> Frame | None:
        """A new frame of a video, if the event brings one."""
        return Frame.model_validate(self.data) if self.type == "frame" else None

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
    presets: dict[str, dict[str, dict[str, Any]]] = {}  # what each changes of the defaults
    limits: dict[str, Any] = {}
    model: dict[str, Any] | None = None  # that it draws with, where it has one of its own


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
    """One thing to draw towards (or, with a negative weight, away from): exactly one of the first five.

    Args:
        image: cut at each step as the drawing is: likeness in style and in place; a path, the bytes of a
            file, or a PIL image, as `target` is.
        target: an image embedded once and whole: likeness in what it shows.
        vector: an embedding, as `embed` gives them with the CLIP that guides first.
        noise: seed of a random direction.
        weight: -10 … 10.
        stop: signed distance below which this prompt no longer pulls.
        begin: share of the steps after which it pulls; `end`: up to which.
        fade: share of the steps that it takes to come in and to go.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    text: str | None = None
    image: Any = None
    target: Any = None
    vector: tuple[float, ...] | None = None
    noise: int | None = None
    weight: float = 1.0
    stop: float | None = None
    begin: float = 0.0
    end: float = 1.0
    fade: float = 0.0
