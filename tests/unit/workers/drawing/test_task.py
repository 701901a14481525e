"""One generation, with a dictionary for a store and a list for a report: no Redis, no torch."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jobs.record.record import Output
from models.generators import gradient
from models.requests.generator import Drawing, GenerationError, Step
from tests.support.drawing import INTERVALS, REQUEST, DictStore, Reports, job
from workers.drawing.task import DrawingContext, run
from workers.runner.pacing import Canceled, Drained, Signals, TimedOut


@pytest.fixture
def context() -> DrawingContext:
    return DrawingContext({"gradient": gradient.load(None)}, DictStore())  # type: ignore[arg-type]


def kept(context: DrawingContext) -> dict[str, bytes]:
    assert isinstance(context.store, DictStore)
    return context.store.kept


def test_each_image_is_kept_with_its_own_seed(context: DrawingContext) -> None:
    outputs = run(job(), "job_a/t", context, Reports(), Signals(), INTERVALS)
    assert [(item.name, item.seed) for item in outputs] == [
        ("image-0.png", 3),
        ("image-1.png", REQUEST.seed_of(1)),
    ]
    pictures = [Image.open(io.BytesIO(kept(context)[item.key])) for item in outputs]
    assert [image.size for image in pictures] == [(24, 16), (24, 16)]
    assert pictures[0].tobytes() != pictures[1].tobytes()


def test_image_k_of_many_is_the_image_of_its_seed_alone(context: DrawingContext) -> None:
    both = run(job(), "job_a/both", context, Reports(), Signals(), INTERVALS)
    alone = REQUEST.model_copy(update={"seed": REQUEST.seed_of(1), "num_images": 1})
    (one,) = run(job(alone), "job_a/one", context, Reports(), Signals(), INTERVALS)
    assert kept(context)[both[1].key] == kept(context)[one.key]


def test_progress_counts_all_images_and_ends_at_the_last_step(context: DrawingContext) -> None:
    reports = Reports()
    run(job(), "job_a/t", context, reports, Signals(), INTERVALS)
    assert [item.step for item in reports.progress] == list(range(1, 21))
    assert {item.steps for item in reports.progress} == {20}
    assert reports.progress[-1].loss == 0
    assert reports.progress[-1].eta_s == 0
    assert [item.name for item in reports.previews] == ["preview-0.jpg"] * 2 + ["preview-1.jpg"] * 2


def test_progress_is_told_no_more_often_than_asked_but_the_end_always(context: DrawingContext) -> None:
    reports = Reports()
    run(job(), "job_a/t", context, reports, Signals(), replace(INTERVALS, progress_every_s=1000))
    assert [item.step for item in reports.progress] == [1, 20]


def test_cancel_stops_after_the_step(context: DrawingContext) -> None:
    signals = Signals()
    reports = Reports(on_step=lambda step: signals.cancel.set() if step == 5 else None)
    with pytest.raises(Canceled):
        run(job(), "job_a/t", context, reports, signals, INTERVALS)
    assert reports.progress[-1].step == 5


@pytest.mark.parametrize(("at", "goes_on_at"), [(1, 2), (7, 8), (10, 12), (13, 14), (19, 20)])
def test_a_drained_job_goes_on_elsewhere_to_the_same_bytes(
    context: DrawingContext, at: int, goes_on_at: int
) -> None:
    whole = run(job(), "job_a/whole", context, Reports(), Signals(), INTERVALS)
    signals = Signals()
    reports = Reports(on_step=lambda step: signals.drain.set() if step == at else None)
    with pytest.raises(Drained):
        run(job(), "job_a/first", context, reports, signals, INTERVALS)
    told = Reports()
    outputs = run(
        job(checkpoint=reports.checkpoints[-1]), "job_a/second", context, told, Signals(), INTERVALS
    )
    assert told.progress[0].step == goes_on_at, "no step is done twice"
    assert [kept(context)[item.key] for item in outputs] == [kept(context)[item.key] for item in whole]


def test_a_damaged_checkpoint_is_no_reason_to_fail(context: DrawingContext) -> None:
    whole = run(job(), "job_a/whole", context, Reports(), Signals(), INTERVALS)
    reports = Reports()
    run(job(), "job_a/first", context, reports, Signals(), replace(INTERVALS, checkpoint_every_s=0))
    key = reports.checkpoints[0]
    for damaged in (kept(context)[key][:-9], b"{}\n", b"", None):
        if damaged is None:
            del kept(context)[key]
        else:
            kept(context)[key] = damaged
        outputs = run(job(checkpoint=key), "job_a/again", context, Reports(), Signals(), INTERVALS)
        assert [kept(context)[item.key] for item in outputs] == [kept(context)[item.key] for item in whole]


def test_a_checkpoint_that_is_too_large_is_not_kept(context: DrawingContext) -> None:
    reports = Reports()
    run(
        job(),
        "job_a/t",
        context,
        reports,
        Signals(),
        replace(INTERVALS, checkpoint_every_s=0, max_checkpoint_bytes=9),
    )
    assert reports.checkpoints == []
    assert not any(key.endswith("/checkpoint") for key in kept(context))


def test_an_attempt_has_a_time_limit(context: DrawingContext) -> None:
    with pytest.raises(TimedOut, match="longer than 0 s"):
        run(job(), "job_a/t", context, Reports(), Signals(), replace(INTERVALS, run_timeout_s=0))


def test_a_generator_that_is_not_loaded_says_so(context: DrawingContext) -> None:
    request = REQUEST.model_copy(update={"generator": "pixels"})
    with pytest.raises(GenerationError, match="pixels"):
        run(job(request), "job_a/t", context, Reports(), Signals(), INTERVALS)


def test_the_requests_images_reach_the_generator() -> None:
    seen: dict[str, Image.Image] = {}

    class Looker:
        def __call__(self, drawing: Drawing) -> Iterator[Step]:
            seen.update(drawing.images)
            yield Step(1, 1, lambda: np.zeros((16, 24, 3), np.uint8), bytes, score=lambda: 0.25)

    store = DictStore()
    buffer = io.BytesIO()
    Image.new("RGB", (2, 3), "red").save(buffer, "PNG")
    store.save("job_a/inputs/input-0.png", buffer.getvalue())
    given = Output("input-0.png", "job_a/inputs/input-0.png", "image/png", 2, 3)
    request = REQUEST.model_copy(update={"num_images": 1, "steps": 1})
    (output,) = run(
        job(request, inputs=(given,)),
        "job_a/t",
        DrawingContext({"gradient": Looker()}, store),
        Reports(),
        Signals(),
        INTERVALS,
    )
    assert seen["input-0.png"].getpixel((0, 0)) == (255, 0, 0)
    assert output.clip_score == 0.25


def test_a_checkpoint_is_readable_up_to_its_state(context: DrawingContext) -> None:
    reports = Reports()
    run(job(), "job_a/t", context, reports, Signals(), replace(INTERVALS, checkpoint_every_s=0))
    head = json.loads(kept(context)[reports.checkpoints[-1]].partition(b"\n")[0])
    assert head["image"] == 1
    assert [item["name"] for item in head["outputs"]] == ["image-0.png"]
