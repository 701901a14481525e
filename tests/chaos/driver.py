"""Kills, freezes and stops the service's processes at random while jobs run, then checks that none was lost.

    python -m tests.chaos.driver --seconds 120 --seed 7

The seed chooses jobs and faults and their order; the machine's own timing is not repeated by it. If a promise
was broken, the exit code is 1, and the diary of the run and the processes' logs tell how.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from storage.redis import connect
from tests.chaos.callers import Callers, wait_until
from tests.chaos.checks import check_all, tell_of
from tests.chaos.processes import Diary, Stage

LEASE_S = 2.0
MAX_ATTEMPTS = 6
IN_FLIGHT = 10
READY_S = 90.0
SETTLE_S = 90.0
SETTINGS = {
    "CLIPCANVAS_LEASE_S": str(LEASE_S),
    "CLIPCANVAS_HEARTBEAT_S": "0.4",
    "CLIPCANVAS_PROGRESS_EVERY_S": "0.1",
    "CLIPCANVAS_CHECKPOINT_EVERY_S": "0.3",
    "CLIPCANVAS_SWEEP_EVERY_S": "0.5",
    "CLIPCANVAS_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    "CLIPCANVAS_GENERATORS": '["gradient", "pixels"]',
}
DOT = (  # a PNG of one pixel
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5Er"
    "kJggg=="
)


def main() -> int:
    """Run once, print the table; 0 if every promise held."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.driver", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="how long things are killed")
    parser.add_argument("--seed", type=int, help="chooses jobs and faults; without, a new one")
    parser.add_argument("--only", default="", help="break these alone: redis, api, janitor or worker")
    parser.add_argument("--keep", type=Path, help="folder for the store, Redis and logs, kept afterwards")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="clipcanvas-chaos-"))
    diary = run(arguments.seconds, seed, folder, arguments.only)
    print(report(diary))
    (folder / "diary.txt").write_text("\n".join(diary.lines))
    if diary.problems:
        again = f"--seconds {arguments.seconds:g} --seed {seed} --only '{arguments.only}'"
        print(f"\nFAILED. Once more: python -m tests.chaos.driver {again}")
        print(f"What happened: {folder}/diary.txt; logs beside it")
    elif not arguments.keep:
        shutil.rmtree(folder)
    return 1 if diary.problems else 0


def run(seconds: float, seed: int, folder: Path, only: str = "") -> Diary:
    """One run; what it found is in the diary."""
    dice = random.Random(seed)
    diary = Diary()
    stage = Stage(folder, SETTINGS, diary)
    try:
        stage.start()
        templates = make_templates(dice)
        images = draw_undisturbed(stage, templates)
        callers = Callers(stage.url, templates, random.Random(seed + 1), diary, IN_FLIGHT)
        callers.start()
        try:
            break_things(stage, dice, seconds, only)
            settle(stage, callers)
        finally:
            callers.leave()
        check_all(stage, callers.tickets, images, MAX_ATTEMPTS)
    finally:
        stage.stop()
    return diary


def make_templates(dice: random.Random) -> list[dict[str, Any]]:
    """Requests that differ in generator, length, images and size; jobs repeat them."""
    seeds = iter(dice.sample(range(1000), 10))

    def gradient(steps: int, num_images: int, **more: Any) -> dict[str, Any]:
        return {
            "generator": "gradient",
            "prompt": "a fox",
            "width": dice.choice([16, 24, 40]),
            "height": 16,
            "steps": steps,
            "num_images": num_images,
            "options": {"delay_s": 0.02},
            "seed": next(seeds),
            **more,
        }

    def pixels(steps: int, num_images: int) -> dict[str, Any]:
        options = {"columns": 8, "rows": 8, "cutouts": 2, "templates": ["{prompt}"]}
        size = {"width": 32, "height": 32}
        more = {"steps": steps, "num_images": num_images, "options": options, "seed": next(seeds)}
        return {"generator": "pixels", "prompt": "a red heart", **size, **more}

    imaged = {"prompt": None, "prompts": [{"image": DOT}]}
    return [
        gradient(30, 1),
        gradient(60, 2),
        gradient(100, 1),
        gradient(15, 2),
        gradient(5, 1),
        gradient(40, 1, **imaged),
        pixels(20, 1),
        pixels(12, 2),
    ]


def draw_undisturbed(stage: Stage, templates: list[dict[str, Any]]) -> list[list[bytes]]:
    """Each template's images, drawn before anything is broken."""
    with httpx.Client(base_url=stage.url, timeout=30, trust_env=False) as http:

        def is_ready() -> bool:
            try:
                workers = http.get("/v1/queue").json()["workers"]
                return [worker["state"] for worker in workers] == ["idle", "idle"]
            except (httpx.TransportError, KeyError):
                return False

        if not wait_until(is_ready, READY_S):
            raise RuntimeError(f"the service did not start, see {stage.folder}/logs")
        stage.diary.say("everything is up; drawing undisturbed")
        ids = []
        for template in templates:
            answer = http.post("/v1/jobs", json=template)
            assert answer.status_code == 202, answer.text
            ids.append(answer.json()["id"])
        found = []
        for job_id in ids:
            job = http.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=25"}).json()
            assert job["status"] == "succeeded", job
            found.append(
                [http.get(output["url"]).content for output in job["outputs"] if output["kind"] == "image"]
            )
        return found


def break_things(stage: Stage, dice: random.Random, seconds: float, only: str) -> None:
    """Faults at random, a second or two apart."""
    faults: list[tuple[int, Callable[[str], None], list[str]]] = [
        # weight, what, to whom
        (6, stage.kill, ["worker-1", "worker-2"]),
        (3, stage.terminate, ["worker-1", "worker-2"]),
        (5, lambda name: _wake_late(stage, name, LEASE_S + dice.uniform(3, 6)), ["worker-1", "worker-2"]),
        (2, lambda name: stage.freeze(name, dice.uniform(0.2, 1)), ["worker-1", "worker-2"]),
        (2, lambda name: _kill_both(stage), ["workers"]),
        (2, stage.kill, ["api"]),
        (1, stage.terminate, ["api"]),
        (1, lambda name: stage.freeze(name, dice.uniform(1, 6)), ["api"]),
        (2, stage.kill, ["janitor"]),
        (1, stage.terminate, ["janitor"]),
        (1, lambda name: stage.freeze(name, dice.choice([2, 12])), ["janitor"]),
        (3, lambda name: stage.kill(name, down_s=dice.choice([0, 1, 5])), ["redis"]),
        (1, lambda name: stage.terminate(name, down_s=dice.choice([0, 3])), ["redis"]),
        (2, lambda name: stage.freeze(name, dice.uniform(0.5, 4)), ["redis"]),
        (1, lambda name: stage.refuse_writes("maxmemory", "1mb", dice.uniform(1, 5)), ["redis"]),
        (1, lambda name: stage.refuse_writes("min-replicas-to-write", "1", dice.uniform(1, 5)), ["redis"]),
    ]
    faults = [fault for fault in faults if fault[2][0].startswith(only)]
    stage.diary.say("breaking things")
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(dice.uniform(0.3, 3))
        [(_, fault, names)] = dice.choices(faults, weights=[weight for weight, _, _ in faults])
        fault(dice.choice(names))


def _wake_late(stage: Stage, name: str, seconds: float) -> None:
    """Nothing else breaks meanwhile: another has the job, and perhaps ended it, when the sleeper goes on."""
    stage.freeze(name, seconds)
    time.sleep(seconds + 2)


def _kill_both(stage: Stage) -> None:
    for name in ("worker-1", "worker-2"):
        stage.kill(name)


def settle(stage: Stage, callers: Callers) -> None:
    """Everything comes up again; what was accepted ends within a bound."""
    stage.diary.say("nothing more is broken")
    began_s = time.monotonic()
    callers.wind_up()
    stage.thaw_all()
    wait_until(lambda: not callers.unfinished(), SETTLE_S)
    left = callers.unfinished()
    stage.diary.say(f"settled after {time.monotonic() - began_s:.1f} s with {len(left)} jobs unfinished")
    stage.diary.counts["seconds until the last job ended"] = round(time.monotonic() - began_s)
    with connect(stage.redis_url, patience_s=5) as connection:
        for ticket in left:
            stage.diary.blame(
                f"{ticket.id} ({ticket.name}) is not final, or its stream did not end: {ticket.last}"
            )
            tell_of(stage, connection, ticket)


def report(diary: Diary) -> str:
    """The table of what was done and found, and the problems."""
    lines = ["", "| What | How often |", "| --- | ---: |"]
    lines += [f"| {name} | {count} |" for name, count in sorted(diary.counts.items())]
    lines += ["", f"{len(diary.problems)} problems"]
    lines += [f"- {problem[:1500]}" for problem in diary.problems]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
