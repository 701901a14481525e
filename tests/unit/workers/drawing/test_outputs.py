"""What a job keeps: formats, settings in the files, sidecars, thumbnails, contact sheets."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.dependencies import ANYBODY
from app.jobs.prepare_drawing import prepare
from app.jobs.schemas import JobRequest
from app.settings import ApiSettings
from jobs.queue import draft
from jobs.record.record import Job, Output
from models.generators import gradient
from models.requests.generator import Drawing, Step
from models.requests.request import GenerationRequest, SaveOptions
from storage.blobs.file import FileStore
from tests.support.drawing import INTERVALS, Reports
from workers.drawing.outputs import MAX_EXIF_BYTES, contact_sheet, encode, recipe, settings_of
from workers.drawing.task import DrawingContext, run
from workers.runner.pacing import Signals

BODY: dict[str, Any] = {"generator": "gradient", "prompt": "a fox | blurry:-0.3", "width": 24, "height": 16}
ABOUT = {"torch": "2.14", "vqgan": "demo"}
MAGIC = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF"}


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


def accept(body: dict[str, Any], store: FileStore) -> Job:
    """The job that the API makes of a body; its images are in the store."""
    drawing = prepare(JobRequest.model_validate(body, strict=True), ANYBODY, ApiSettings())
    for key, data in drawing.files.items():
        store.save(key, data)
    return draft(drawing.job)


def draw(body: dict[str, Any], store: FileStore, generator: Any = None) -> dict[str, Output]:
    """All that comes of a body, by name and in order."""
    job = accept({"steps": 4, "seed": 7, **body}, store)
    context = DrawingContext({job.request.generator: generator or gradient.load(None)}, store, ABOUT)  # type: ignore[arg-type]
    outputs = run(job, f"{job.id}/t", context, Reports(), Signals(), INTERVALS)
    return {output.name: output for output in outputs}


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_image_tells_what_drew_it_unless_it_is_to_keep_silent(store: FileStore, format: str) -> None:
    outputs = draw({**BODY, "num_images": 2, "save": {"format": format, "quality": 70}}, store)
    name = f"image-1.{'jpg' if format == 'jpeg' else format}"
    data = store.read(outputs[name].key)
    assert data.startswith(MAGIC[format])
    assert outputs[name].content_type == f"image/{format}"
    told = settings_of(data)
    assert told is not None
    assert [prompt["text"] for prompt in told["prompts"]] == ["a fox", "blurry"]
    assert (told["seed"], told["num_images"], told["steps"]) == (outputs[name].seed, 1, 4)
    assert told["metadata"] == ABOUT
    silent = draw({**BODY, "save": {"format": format, "metadata": False}}, store)
    assert [output.kind for output in silent.values()] == ["image"]
    data = store.read(next(iter(silent.values())).key)
    assert settings_of(data) is None
    assert b"fox" not in data


def test_quality_trades_size_for_looks_and_webp_is_exact_at_100(store: FileStore) -> None:
    def size_and_pixels(**save: Any) -> tuple[int, bytes]:
        outputs = draw({**BODY, "width": 128, "height": 128, "save": {"metadata": False, **save}}, store)
        data = store.read(next(iter(outputs.values())).key)
        return len(data), Image.open(io.BytesIO(data)).convert("RGB").tobytes()

    exact = size_and_pixels()[1]
    for format in ("jpeg", "webp"):
        small, large = (size_and_pixels(format=format, quality=quality) for quality in (5, 95))
        assert small[0] < large[0]
        assert small[1] != exact
    assert size_and_pixels(format="webp", quality=100)[1] == exact


def test_settings_that_a_jpeg_has_no_room_for_are_left_out(store: FileStore) -> None:
    picture = Image.new("RGB", (8, 8))
    settings = {"vector": [0.123456789] * (MAX_EXIF_BYTES // 10)}
    assert settings_of(encode(picture, SaveOptions(format="jpeg"), settings)) is None
    assert settings_of(encode(picture, SaveOptions(format="webp"), settings)) == settings
    assert settings_of(encode(picture, SaveOptions(), settings)) == settings


def test_a_image_of_another_program_tells_nothing() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0holiday"
    for format, options in (("JPEG", {"exif": exif.tobytes()}), ("PNG", {})):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, format, **options)
        assert settings_of(buffer.getvalue()) is None


def plain(color: str, size: tuple[int, int] = (32, 24)) -> str:
    """An image of one color, as clients send it."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


class Painter:
    """Draws from everything that a request has: its images, options, prompts and the seed."""

    def __init__(self, svg: str | None = None) -> None:
        self._svg = svg

    def __call__(self, drawing: Drawing) -> Iterator[Step]:
        request, pictures = drawing.request, drawing.images
        init = pictures[request.options["init_image"]].resize((request.width, request.height))
        mask = pictures[request.options["mask"]].resize((request.width, request.height))
        of_prompts = [name for prompt in request.prompts for name in (prompt.image, prompt.target) if name]
        shift = sum(sum(pictures[name].getpixel((0, 0))) for name in of_prompts)  # type: ignore[arg-type]
        text = request.model_dump_json(exclude={"seed", "num_images"})
        noise = np.random.default_rng([drawing.seed, len(text), shift]).integers(
            0, 255, (request.height, request.width, 3)
        )
        drawn = np.where(np.asarray(mask) > 127, noise, np.asarray(init)).astype(np.uint8)
        svg = self._svg
        for index in range(1, request.steps + 1):
            yield Step(
                index,
                request.steps,
                lambda: drawn,
                bytes,
                score=lambda: 0.25,
                held_out_score=lambda: 0.1234567,
                svg=None if svg is None else lambda: str(svg),
            )


PAINTED: dict[str, Any] = {
    "generator": "vqgan_clip",
    "prompts": [
        {"text": "a fox", "weight": 0.5, "begin": 0.25, "fade": 0.125},
        {"image": plain("red"), "weight": -1},
        {"target": plain("blue")},
        {"vector": [0.5, -0.25] * 320},
        {"noise": 17, "stop": 0.5},
    ],
    "width": 64,
    "height": 48,
    "num_images": 2,
    "options": {"init_image": plain("green", (50, 70)), "mask": plain("white")},
}


@pytest.mark.parametrize("save", [{}, {"format": "jpeg"}, {"format": "webp"}])
def test_a_sidecar_that_is_posted_back_draws_the_same_file(store: FileStore, save: dict[str, Any]) -> None:
    first = draw({**PAINTED, "save": save, "metadata": {"order": "a secret"}}, store, Painter())
    pictures = [output for output in first.values() if output.kind == "image"]
    for index, picture in enumerate(pictures):
        text = store.read(first[f"image-{index}.json"].key)
        assert b"a secret" not in text
        again = draw(json.loads(text), store, Painter())
        [same] = [output for output in again.values() if output.kind == "image"]
        assert store.read(same.key) == store.read(picture.key)
        assert same.seed == picture.seed


def test_a_sidecar_holds_the_images_themselves_and_versions(store: FileStore) -> None:
    outputs = draw(PAINTED, store, Painter())
    told = json.loads(store.read(outputs["image-0.json"].key))
    assert told["metadata"] == ABOUT
    for picture in (told["prompts"][1]["image"], told["prompts"][2]["target"], told["options"]["mask"]):
        kind, _, data = picture.partition(";base64,")
        assert kind == "data:image/png"
        Image.open(io.BytesIO(base64.b64decode(data))).load()
    inside = settings_of(store.read(outputs["image-0.png"].key))
    assert inside is not None
    assert inside["prompts"][1]["image"] == "input-0.png", "the file itself has their names only"


def test_a_recipe_keeps_texts_that_are_no_names() -> None:
    request = GenerationRequest(
        generator="g", prompts=({"text": "input-0.png"},), width=16, height=16, steps=1, seed=0,
        options={"start": "noise"},
    )  # fmt: skip
    body = recipe(request, 3, {}, {"input-0.png": "data:…"})
    assert (body["prompts"][0]["text"], body["options"], body["seed"]) == (
        "input-0.png",
        {"start": "noise"},
        3,
    )


def test_images_come_first_and_each_has_its_scores(store: FileStore) -> None:
    save = {"thumbnail": 16, "contact_sheet": True, "video": "frames"}
    outputs = draw({**PAINTED, "save": save}, store, Painter(svg="<svg/>"))
    assert [(name, output.kind) for name, output in outputs.items()] == [
        ("image-0.png", "image"),
        ("image-1.png", "image"),
        ("image-0.json", "sidecar"),
        ("image-0.svg", "svg"),
        ("thumbnail-0.png", "thumbnail"),
        ("frames-0.zip", "frames"),
        ("image-1.json", "sidecar"),
        ("image-1.svg", "svg"),
        ("thumbnail-1.png", "thumbnail"),
        ("frames-1.zip", "frames"),
        ("contact-sheet.png", "contact_sheet"),
    ]
    assert (outputs["image-0.png"].clip_score, outputs["image-0.png"].held_out_score) == (0.25, 0.1235)
    assert store.read(outputs["image-1.svg"].key) == b"<svg/>"
    assert outputs["image-1.svg"].content_type == "image/svg+xml"
    thumbnail = Image.open(io.BytesIO(store.read(outputs["thumbnail-1.png"].key)))
    assert thumbnail.size == (outputs["thumbnail-1.png"].width, outputs["thumbnail-1.png"].height) == (16, 12)


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 2, 2), (7, 3, 3)]
)
def test_a_contact_sheet_shows_each_image_once(count: int, columns: int, rows: int) -> None:
    colors = [(20 * index, 0, 0) for index in range(count)]
    sheet = contact_sheet([Image.new("RGB", (30, 20), color) for color in colors])
    assert sheet.size == (8 + columns * 38, 8 + rows * 28)
    seen = [
        sheet.getpixel((8 + 38 * (index % columns), 8 + 28 * (index // columns))) for index in range(count)
    ]
    assert seen == colors


def test_a_contact_sheet_has_its_bounds() -> None:
    assert contact_sheet([Image.new("RGB", (300, 200))] * 16, max_side=400).size == (400, 280)
