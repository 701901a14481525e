"""Files are saved beside the steps: no step waits for one, no checkpoint tells of one that is not kept."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from models.generators import gradient
from models.requests.request import SaveOptions
from storage.blobs import StorageFull
from tests.support.drawing import INTERVALS, REQUEST, DictStore, Reports, job
from workers.drawing.background_writer import MOST_WAITING, Writer
from workers.drawing.progress import load_checkpoint
from workers.drawing.task import DrawingContext, run
from workers.runner.pacing import Drained, Signals

FILMED = REQUEST.model_copy(update={"save": SaveOptions(video="frames", metadata=False)})


class Watched(DictStore):
    """Calls `on_save` with each key before it saves."""

    def __init__(self, on_save: Callable[[str], None]) -> None:
        super().__init__()
        self._on_save = on_save

    def save(self, key: str, data: bytes) -> None:
        self._on_save(key)
        super().save(key, data)


def studio_of(store: DictStore) -> DrawingContext:
    return DrawingContext({"gradient": gradient.load(None)}, store, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "until"),
    [("frame-0-00001.png", 5), ("checkpoint", 2), ("image-0.png", 14), ("frames-0.zip", 14)],
)
def test_steps_go_on_while_a_file_is_saved(file: str, until: int) -> None:
    went_on, in_time = threading.Event(), []

    def wait(key: str) -> None:
        if key.endswith(f"/{file}"):
            in_time.append(went_on.wait(10))

    def note(step: int) -> None:
        if step == until:
            went_on.set()

    intervals = replace(INTERVALS, preview_every=1000, checkpoint_every_s=0 if file == "checkpoint" else 1000)
    request = FILMED if file != "checkpoint" else REQUEST
    run(job(request), "job_a/t", studio_of(Watched(wait)), Reports(on_step=note), Signals(), intervals)
    assert in_time
    assert in_time[0]


@pytest.mark.parametrize("file", ["frame-0-00004.png", "image-0.png", "frames-0.zip"])
def test_no_checkpoint_follows_a_file_that_is_not_kept(file: str) -> None:
    def refuse(key: str) -> None:
        if key.endswith(f"/{file}"):
            raise StorageFull(key)

    store, reports = Watched(refuse), Reports()
    with pytest.raises(StorageFull):
        run(
            job(FILMED),
            "job_a/t",
            studio_of(store),
            reports,
            Signals(),
            replace(INTERVALS, checkpoint_every_s=0),
        )
    known = load_checkpoint(store, reports.checkpoints[-1])
    assert known.image == 0
    assert [step for _, step in known.frames] == list(range(1, 4 if file.startswith("frame-") else 10))
    assert not any("-1." in key for key in store.kept), "nothing of the next image"


def test_one_checkpoint_waits_at_a_time() -> None:
    """They may be large. The step after it goes on, the next checkpoint waits."""
    gate, came, seen = threading.Event(), threading.Event(), list[int]()

    def hold(key: str) -> None:
        came.set()
        assert_set(gate)

    reports = Reports(on_step=seen.append)
    intervals = replace(INTERVALS, preview_every=1000, checkpoint_every_s=0)
    arguments = (job(), "job_a/t", studio_of(Watched(hold)), reports, Signals(), intervals)
    drawing = threading.Thread(target=run, args=arguments)
    drawing.start()
    assert_set(came)
    drawing.join(0.3)
    assert seen == [1, 2]
    gate.set()
    drawing.join(10)
    assert seen == list(range(1, 21))


def test_who_is_drained_tells_of_the_checkpoint_first() -> None:
    """However long the store takes."""
    slow, signals = threading.Event(), Signals()
    threading.Timer(0.3, slow.set).start()

    def drain(step: int) -> None:
        if step == 3:
            signals.drain.set()

    store, reports = Watched(lambda key: assert_set(slow)), Reports(on_step=drain)
    with pytest.raises(Drained):
        run(job(FILMED), "job_a/t", studio_of(store), reports, signals, INTERVALS)
    assert [frame.step for frame in reports.frames] == [1, 2, 3]
    assert [step for _, step in load_checkpoint(store, reports.checkpoints[-1]).frames] == [1, 2, 3]


def assert_set(event: threading.Event) -> None:
    assert event.wait(10)


def test_steps_wait_for_a_store_that_is_slower() -> None:
    gate, done, writer = threading.Event(), [], Writer()

    def write(number: int) -> Any:
        assert_set(gate)
        done.append(number)

    def add() -> None:
        for number in range(MOST_WAITING + 3):
            writer.add(lambda number=number: write(number))  # type: ignore[misc]
            added.append(number)

    added: list[int] = []
    adder = threading.Thread(target=add)
    adder.start()
    adder.join(0.3)
    assert len(added) == MOST_WAITING
    gate.set()
    adder.join(10)
    writer.settle()
    assert done == added == list(range(MOST_WAITING + 3))
    writer.close()
