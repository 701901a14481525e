"""How much of a drawing job's time is steps, and do several take longer at once than in a row?

    python -m benchmarks.service.drawing_jobs

The whole service, real processes, demo models with their defaults. The first job is not counted. A job's time
is that from the request to its end, with a client that waits by `Prefer: wait`; the worker's log tells how
much of it was steps.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.service.jobs import Service

SETTINGS = {"CLIPCANVAS_GENERATORS": '["vqgan_clip"]', "CLIPCANVAS_MAX_QUEUED_PER_KEY": "1000"}
REQUEST: dict[str, Any] = {"prompt": "a red heart", "seed": 7}


def main() -> None:
    """Measure both, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help="of the job whose time is taken apart")
    parser.add_argument("--jobs", type=int, default=4, help="at once, and in a row; 0 leaves it out")
    parser.add_argument("--job-steps", type=int, default=20, help="of each of those")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clipcanvas-")))
        service = Service(folder, stack, SETTINGS)
        worker = service.start_worker()
        finish(service, 1, 2)
        seconds = finish(service, 1, chosen.steps)
        *_, drawn = logged(folder / "log", "picture drawn")
        share = drawn["seconds_in_steps"] / seconds
        print(f"{chosen.steps} steps: {seconds:.1f} s from request to end, {share:.1%} of it in steps")
        for at_once in (1, chosen.jobs, 1, chosen.jobs) if chosen.jobs else ():
            worker.terminate()
            worker.wait(30)
            worker = service.start_worker(CLIPCANVAS_JOBS_AT_ONCE=str(at_once))
            finish(service, 1, 2)
            seconds = finish(service, chosen.jobs, chosen.job_steps)
            said = f"{chosen.jobs} jobs of {chosen.job_steps} steps, {at_once} at once"
            print(f"{said}: {seconds:.1f} s", flush=True)


def finish(service: Service, jobs: int, steps: int) -> float:
    """Seconds from the first request to the last end."""
    started_s = time.time()
    ids = [service.create({**REQUEST, "steps": steps}) for _ in range(jobs)]
    for job_id in ids:
        while not service.http.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=20"}).json()["finished_at"]:
            continue
    return time.time() - started_s


def logged(path: Path, event: str) -> Iterator[dict[str, Any]]:
    """The lines of a log that tell of this."""
    for line in path.read_text().splitlines():
        if line.startswith("{") and (told := json.loads(line)).get("event") == event:
            yield told


if __name__ == "__main__":
    main()
