"""Films: every frame once and in order, in each format, also when a job goes on elsewhere or ends early."""

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from jobs.filenames import attempt_files
from jobs.record.record import Frame, Output
from models.generators import gradient
from models.requests import checkpoint
from models.requests.generator import Drawing, GenerationError, Step
from models.requests.request import GenerationRequest, Prompt, SaveOptions
from storage.blobs.file import FileStore
from tests.support.drawing import INTERVALS, Reports, job
from workers.drawing.task import DrawingContext, run
from workers.runner.pacing import Drained, Signals

REQUEST = GenerationRequest(
    generator="gradient", prompts=(Prompt(text="a fox"),), width=37, height=21, steps=10, seed=3, num_images=2
)


class Killed(BaseException):
    """Nothing of the attempt runs any more, as after kill -9."""


@pytest.fixture
def context(tmp_path: Path) -> DrawingContext:
    return DrawingContext({"gradient": gradient.load(None)}, FileStore(tmp_path), {})  # type: ignore[arg-type]


def filmed(**save: Any) -> GenerationRequest:
    return REQUEST.model_copy(update={"save": SaveOptions(metadata=False, **save)})


def film_of(outputs: tuple[Output, ...], context: DrawingContext, image: int = 0) -> bytes:
    films = [output for output in outputs if output.kind in ("video", "frames")]
    return context.store.read(films[image].key)


def frames_in(archive: bytes) -> list[Image.Image]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert opened.testzip() is None
        names = opened.namelist()
        assert names == [f"{number:05d}.png" for number in range(len(names))]
        return [Image.open(io.BytesIO(opened.read(name))) for name in names]


def test_frames_are_the_drawing_at_every_nth_step_and_at_the_last(context: DrawingContext) -> None:
    reports = Reports()
    outputs = run(
        job(filmed(video="frames", frame_every=4)), "job_a/t", context, reports, Signals(), INTERVALS
    )
    assert reports.frames == [
        Frame(f"frame-{image}-{step:05d}.png", image, number, step)
        for image in range(2)
        for number, step in enumerate((4, 8, 10))
    ]
    for image in range(2):
        shown = frames_in(film_of(outputs, context, image))
        assert len(shown) == 3
        seed = REQUEST.seed_of(image)
        steps = gradient.generate(Drawing(REQUEST, seed))
        drawn = {step.index: step.render() for step in steps}
        for frame, step in zip(shown, (4, 8, 10), strict=True):
            assert np.array_equal(np.asarray(frame), drawn[step]), "lossless"
    for frame in reports.frames:
        assert Image.open(io.BytesIO(context.store.read(f"job_a/t/frames/{frame.name}"))).size == (37, 21)


def test_an_mp4_is_h264_that_browsers_play(context: DrawingContext) -> None:
    outputs = run(job(filmed(video="mp4", fps=5)), "job_a/t", context, Reports(), Signals(), INTERVALS)
    [first, _] = [output for output in outputs if output.kind == "video"]
    assert (first.name, first.content_type) == ("video-0.mp4", "video/mp4")
    data = film_of(outputs, context)
    assert data.index(b"moov") < data.index(b"mdat"), "it plays before all of it is there"
    with av.open(io.BytesIO(data)) as film:
        stream = film.streams.video[0]
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (38, 22), "H.264 has even sides; the last row is repeated"
        assert stream.average_rate == 5
    assert len(shown) == 10
    picture = np.asarray(Image.open(io.BytesIO(context.store.read(outputs[0].key))))
    assert np.abs(shown[-1][:21, :37].astype(int) - picture).mean() < 4


ENCODE = """
import sys
import numpy as np
from pathlib import Path
from workers.drawing.video import _write_mp4, _write_webp
from models.requests.request import SaveOptions

rng, ramp = np.random.default_rng(0), np.linspace(0, 255, 38 * 22 * 3).reshape(22, 38, 3)
noisy = [ramp / (1 + step) + rng.normal(0, 3, ramp.shape) for step in range(12)]
images = [image.clip(0, 255).astype(np.uint8) for image in noisy]
_write_mp4(Path(sys.argv[1], "film.mp4"), iter(images), 12)
_write_webp(Path(sys.argv[1], "film.webp"), iter(images), SaveOptions())
"""


def test_what_lies_in_memory_does_not_change_a_film(tmp_path: Path) -> None:
    films = []
    for filled in ("1", "85", "170"):  # glibc fills memory with these where nobody has written
        folder = tmp_path / filled
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", ENCODE, str(folder)],
            env=os.environ | {"MALLOC_PERTURB_": filled},
            check=True,
        )
        films.append([(folder / name).read_bytes() for name in ("film.mp4", "film.webp")])
    assert films[0] == films[1] == films[2]


@pytest.mark.parametrize("quality", [80, 100])
def test_an_animated_webp_runs_for_ever_and_is_exact_at_100(context: DrawingContext, quality: int) -> None:
    request = filmed(video="webp", fps=20, quality=quality)
    outputs = run(job(request), "job_a/t", context, Reports(), Signals(), INTERVALS)
    film = Image.open(io.BytesIO(film_of(outputs, context)))
    assert (film.format, film.n_frames, film.size, film.info["loop"]) == ("WEBP", 10, (37, 21), 0)  # type: ignore[attr-defined]
    film.seek(9)
    film.load()
    assert film.info["duration"] == 50
    picture = np.asarray(Image.open(io.BytesIO(context.store.read(outputs[0].key))))
    off = np.abs(np.asarray(film.convert("RGB")).astype(int) - picture).mean()
    assert off == 0 if quality == 100 else 0 < off < 6


@pytest.mark.parametrize("video", ["mp4", "webp"])
def test_without_ffmpeg_a_film_fails_before_the_first_step(
    context: DrawingContext, monkeypatch: pytest.MonkeyPatch, video: str
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    reports = Reports()
    with pytest.raises(GenerationError, match=f"no PyAV to make {video} films"):
        run(job(filmed(video=video)), "job_a/t", context, reports, Signals(), INTERVALS)
    assert not reports.frames
    assert run(job(filmed(video="frames")), "job_a/t", context, reports, Signals(), INTERVALS)


@pytest.mark.parametrize("video", ["mp4", "webp", "frames"])
@pytest.mark.parametrize("killed_at", [1, 4, 9, 10, 11, 15, 20])
def test_a_job_that_was_killed_makes_the_same_film(
    context: DrawingContext, video: str, killed_at: int
) -> None:
    """Checkpoints lie three steps apart, so that frames were kept that no checkpoint knows of."""
    request = filmed(video=video, frame_every=2)
    whole = run(job(request), "job_a/whole", context, Reports(), Signals(), INTERVALS)

    def kill(step: int) -> None:
        if step == killed_at:
            raise Killed

    checkpoints: list[str] = []
    for attempt in range(2):
        reports = Reports(on_step=kill if attempt == 0 else None)
        intervals = replace(INTERVALS, checkpoint_every_s=0)
        known = job(request, checkpoint=checkpoints[-1] if checkpoints else None)
        frozen = _Freezing(context.store, every=3)
        try:
            outputs = run(
                known, f"job_a/{attempt}", replace(context, store=frozen), reports, Signals(), intervals
            )
        except Killed:
            checkpoints += frozen.told
    for image in range(2):
        assert film_of(outputs, context, image) == film_of(whole, context, image)


class _Freezing:
    """A store that takes one of so many checkpoints."""

    def __init__(self, store: Any, every: int) -> None:
        self._store, self._every, self._seen, self.told = store, every, 0, list[str]()

    def save(self, key: str, data: bytes) -> None:
        if key.endswith("/checkpoint"):
            self._seen += 1
            if self._seen % self._every:
                return
            self.told.append(key)
        self._store.save(key, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_job_that_starts_over_has_no_frame_twice(context: DrawingContext) -> None:
    request = filmed(video="frames")
    whole = run(job(request), "job_a/whole", context, Reports(), Signals(), INTERVALS)
    signals = Signals()
    reports = Reports(on_step=lambda step: signals.drain.set() if step == 5 else None)
    with pytest.raises(Drained):
        run(job(request), "job_a/first", context, reports, signals, INTERVALS)
    key = reports.checkpoints[-1]
    context.store.save(key, context.store.read(key)[:-9])  # its state is damaged, its head is not
    outputs = run(job(request, checkpoint=key), "job_a/second", context, Reports(), Signals(), INTERVALS)
    assert film_of(outputs, context) == film_of(whole, context)


class Hasty:
    """Ends after 5 steps of however many, and says so."""

    def __call__(self, drawing: Drawing) -> Iterator[Step]:
        request, seed, state = drawing.request, drawing.seed, drawing.resume_from
        done = 0 if state is None else checkpoint.unpack(state, request=request, seed=seed)[0]

        def steps() -> Iterator[Step]:
            for index in range(done + 1, 6):
                yield Step(
                    index,
                    request.steps,
                    lambda index=index: np.full((21, 37, 3), 10 * index + seed % 7, np.uint8),  # type: ignore[misc]
                    lambda index=index: checkpoint.pack({}, request=request, seed=seed, step=index),  # type: ignore[misc]
                    ends_early=index == 5,
                )

        return steps()


@pytest.mark.parametrize("drained_at", [None, 2, 4, 5, 6, 9])
def test_a_drawing_that_ends_early_is_whole(context: DrawingContext, drained_at: int | None) -> None:
    """Its last step is shown, filmed and counted; what follows it is another image."""
    context = replace(context, generators={"gradient": Hasty()})
    request = filmed(video="frames", frame_every=3, contact_sheet=True)
    signals, checkpoint, frames = Signals(), None, []
    if drained_at:
        first = Reports(on_step=lambda step: signals.drain.set() if step == drained_at else None)
        with pytest.raises(Drained):
            run(job(request), "job_a/first", context, first, signals, INTERVALS)
        checkpoint, frames = first.checkpoints[-1], first.frames
    reports = Reports()
    outputs = run(job(request, checkpoint=checkpoint), "job_a/t", context, reports, Signals(), INTERVALS)
    assert [output.name for output in outputs if output.kind == "image"] == ["image-0.png", "image-1.png"]
    for image in range(2):
        seed = REQUEST.seed_of(image)
        shown = [np.asarray(frame)[0, 0, 0] for frame in frames_in(film_of(outputs, context, image))]
        assert shown == [30 + seed % 7, 50 + seed % 7]
    assert [(frame.image, frame.step) for frame in (*frames, *reports.frames)] == [
        (0, 3),
        (0, 5),
        (1, 3),
        (1, 5),
    ]
    last = reports.progress[-1]
    assert (last.step, last.steps) == (10, 10)
    assert [item.steps for item in reports.progress if item.step == 6] in ([15], []), "of which 5 are done"


@pytest.mark.parametrize("video", ["none", "mp4", "webp", "frames"])
@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_every_file_of_an_attempt_can_be_named_when_it_is_tidied(
    context: DrawingContext, tmp_path: Path, video: str, format: str
) -> None:
    save = SaveOptions.model_validate(
        {"format": format, "video": video, "thumbnail": 8, "contact_sheet": True}
    )
    request = REQUEST.model_copy(update={"save": save})
    intervals = replace(INTERVALS, checkpoint_every_s=0)
    run(job(request), "job_a/t", context, Reports(), Signals(), intervals)
    kept = {path.name for path in (tmp_path / "job_a/t").iterdir()}
    assert kept - set(attempt_files(request)) == set()
    assert {"checkpoint", "preview-1.jpg", "image-1.json"} <= kept
