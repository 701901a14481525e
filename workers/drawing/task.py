"""Drawing as attempts do it: with the memory that there is, on a studio that stays warm."""

from jobs.record.priorities import JobType
from jobs.record.record import Job, Output
from models.catalog.memory import predict
from workers import device
from workers.drawing.run import Studio, run
from workers.runner.pacing import Pace, Report, Signals
from workers.settings import WorkerSettings


class Drawing:
    """The work of a worker that draws; `workers.runner.attempt.Work` says how it is called."""

    type: JobType = "draw"

    def __init__(self, settings: WorkerSettings, studio: Studio) -> None:
        self._settings, self._studio = settings, studio
        self.store = studio.store
        self.memory = settings.device_memory or device.memory(settings.device)  # bytes

    def is_tight(self, job: Job) -> bool:
        request = job.drawing
        if request.generator not in self._studio.generators:
            return False  # which is told as it is run
        return predict(request, self._settings.network_names, low_memory=False) > self.memory

    def goes_with(self, job: Job, others: list[Job]) -> bool:
        """Of the same generator, size and number of cutouts, and all of them fit into the memory at once."""
        jobs = [job, *others]
        kinds = {
            (job.drawing.generator, job.drawing.width, job.drawing.height, job.drawing.options.get("cutouts"))
            for job in jobs
        }
        need = sum(predict(job.drawing, self._settings.network_names, low_memory=False) for job in jobs)
        return len(kinds) == 1 and need <= self.memory

    def run(
        self, job: Job, folder: str, report: Report, signals: Signals, pace: Pace, *, frugal: bool
    ) -> tuple[Output, ...]:
        return run(job, folder, self._studio, report, signals, pace, low_memory=frugal)
