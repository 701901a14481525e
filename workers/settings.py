"""The settings of worker, janitor and webhook sender; the environment is read in `__main__` only."""

from typing import Annotated

from pydantic import Field

from jobs.settings import JobSettings


class WorkerSettings(JobSettings):
    """How a worker draws and how often it speaks. Times are in seconds."""

    threads: int = Field(0, ge=0, description="CPU threads of torch; 0 leaves the choice to torch")
    jobs_at_once: int = Field(
        1, ge=1, le=64, description="drawings of one generator, size and number of cutouts in one worker"
    )
    deterministic: bool = Field(
        False,
        description="drawings at once take turns on a GPU, too, each with the bytes that it has alone; else "
        "they share passes of the networks and differ by rounding",
    )
    compile_sizes: tuple[Annotated[str, Field(pattern=r"^[1-9]\d{0,3}x[1-9]\d{0,3}$")], ...] = Field(
        (),
        description="sizes, such as 256x256, whose steps are compiled when a worker starts, as a JSON list: "
        "minutes for each the first time. Others are drawn as they are. For GPUs: on a CPU it hardly pays",
    )
    heartbeat_s: float = Field(2, gt=0, description="how often a worker renews its lease")
    progress_every_s: float = Field(0.5, gt=0, description="progress is told at most this often")
    preview_every: int = Field(10, ge=1, description="steps between two previews, at the least")
    checkpoint_every_s: float = Field(5, gt=0, description="how often a checkpoint is kept")
    redis_patience_s: float = Field(300, gt=0, description="how long a worker waits for a Redis that is gone")
    webhook_timeout_s: float = Field(15, gt=0, description="a receiver has to answer within this time")
    webhook_backoff_s: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (0, 5, 60, 300, 1800, 7200, 21600, 43200),
        min_length=1,
        description="pause before each attempt to tell a webhook, a fifth more or less; then it is given up",
    )
    webhooks_at_once: int = Field(200, ge=1, description="requests that one sender has under way")
    sweep_every_s: float = Field(1, gt=0, description="how often the janitor looks")
