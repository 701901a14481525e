"""The files that a job keeps of its images, with the settings that drew them inside, and what lies beside."""

import base64
import contextlib
import io
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from jobs.filenames import CONTACT_SHEET, IMAGE, PREVIEW, SIDECAR, SUFFIX, SVG, THUMBNAIL, video_name
from jobs.record.record import Job, Output
from models.requests.generator import Step
from models.requests.request import GenerationRequest, SaveOptions
from storage.blobs import Store
from workers.drawing.video import CONTENT_TYPES as FILM_TYPES
from workers.drawing.video import Film

log = structlog.get_logger(__name__)

CONTENT_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

PNG_KEY = "clipcanvas"
EXIF_IFD, USER_COMMENT, SOFTWARE = 0x8769, 0x9286, 0x0131
MAX_EXIF_BYTES = 65_000  # a segment of a JPEG file has two bytes for its length

_ASCII = b"ASCII\0\0\0"  # how EXIF says the character code of a comment


def versions() -> dict[str, str]:
    """Of all that has a part in an image's bytes."""
    told = {"python": platform.python_version()}
    for name in ("clipcanvas", "torch", "numpy", "pillow", "open_clip_torch", "av"):
        with contextlib.suppress(metadata.PackageNotFoundError):  # such as when run from the sources
            told[name] = metadata.version(name)
    return told


@dataclass(frozen=True)
class FinishedImage:
    """A finished image, apart from what drew it: what that goes on to draw does not change it."""

    pixels: NDArray[np.uint8]  # (H, W, 3)
    score: float | None
    held_out_score: float | None
    svg: str | None

    @classmethod
    def of(cls, step: Step) -> "FinishedImage":
        """What the last step shows."""
        return cls(
            step.render(),
            step.score() if step.score else None,
            step.held_out_score() if step.held_out_score else None,
            step.svg() if step.svg else None,
        )


@dataclass(frozen=True)
class OutputWriter:
    """Keeps the outputs of one attempt.

    Args:
        folder: of the attempt, in the store.
        about: versions and names of what draws, which go into images and sidecars.
    """

    job: Job
    folder: str
    store: Store
    about: Mapping[str, str]

    def picture(self, drawn: FinishedImage, image: int, film: Film) -> tuple[Output, ...]:
        """All of a finished image."""
        request = self.job.drawing
        save, seed, suffix = request.save, request.seed_of(image), SUFFIX[request.save.format]
        picture = Image.fromarray(drawn.pixels)
        settings = recipe(request, seed, self.about) if save.metadata else None
        size = {"width": picture.width, "height": picture.height}
        kept = [
            self._keep(
                IMAGE.format(image, suffix),
                encode(picture, save, settings),
                CONTENT_TYPES[save.format],
                "image",
                **size,
                seed=seed,
                clip_score=_rounded(drawn.score),
                held_out_score=_rounded(drawn.held_out_score),
            )
        ]
        if save.metadata:
            whole = recipe(request, seed, self.about, self._inputs())
            data = json.dumps(whole, indent=1).encode()
            kept.append(self._keep(SIDECAR.format(image), data, "application/json", "sidecar", seed=seed))
        if drawn.svg is not None:
            data = drawn.svg.encode()
            kept.append(self._keep(SVG.format(image), data, "image/svg+xml", "svg", **size, seed=seed))
        if save.thumbnail:
            small = picture.copy()
            small.thumbnail((save.thumbnail, save.thumbnail), Image.Resampling.LANCZOS)
            name = THUMBNAIL.format(image, suffix)
            kept.append(self._image(name, small, "thumbnail", seed=seed))
        if save.video != "none":
            kept.append(
                self._keep(
                    video_name(image, save),
                    film.file(),
                    FILM_TYPES[save.video],
                    "frames" if save.video == "frames" else "video",
                    **size,
                    seed=seed,
                )
            )
        return tuple(kept)

    def all_of(self, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        """What is to be published: the images first, and what shows all of them."""
        save = self.job.drawing.save
        images = [output for output in outputs if output.kind == "image"]
        rest = [output for output in outputs if output.kind != "image"]
        if save.contact_sheet:
            sheet = contact_sheet([open_image(self.store.read(output.key)) for output in images])
            rest.append(self._image(CONTACT_SHEET.format(SUFFIX[save.format]), sheet, "contact_sheet"))
        return (*images, *rest)

    def preview(self, pixels: NDArray[np.uint8], image: int) -> Output:
        """How an image looks by now: (H, W, 3)"""
        picture = Image.fromarray(pixels)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        size = {"width": picture.width, "height": picture.height}
        return self._keep(PREVIEW.format(image), buffer.getvalue(), "image/jpeg", "preview", **size)

    def _image(self, name: str, picture: Image.Image, kind: str, seed: int | None = None) -> Output:
        save, size = self.job.drawing.save, {"width": picture.width, "height": picture.height}
        return self._keep(name, encode(picture, save), CONTENT_TYPES[save.format], kind, **size, seed=seed)

    def _keep(self, name: str, data: bytes, content_type: str, kind: str, **fields: Any) -> Output:
        key = f"{self.folder}/{name}"
        self.store.save(key, data)
        return Output(name, key, content_type, kind=kind, **fields)

    def _inputs(self) -> dict[str, str]:
        return {
            item.name: f"data:{item.content_type};base64,"
            + base64.b64encode(self.store.read(item.key)).decode()
            for item in self.job.inputs
        }


def recipe(
    request: GenerationRequest, seed: int, about: Mapping[str, str], images: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A body for `POST /v1/jobs` that draws one image of a request again, alone.

    Args:
        seed: of that image.
        images: what is said in place of the names of the request's images; none: the names.
    """
    said = images or {}
    body = request.model_dump(mode="json")
    prompts = [
        {
            field: said.get(value, value) if field in ("image", "target") else value
            for field, value in prompt.items()
        }
        for prompt in body["prompts"]
    ]
    options = {
        name: said.get(value, value) if isinstance(value, str) else value
        for name, value in body["options"].items()
    }
    changed = {"prompts": prompts, "options": options, "seed": seed, "num_images": 1}
    return {**body, **changed, "metadata": dict(about)}


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)


def open_image(data: bytes) -> Image.Image:
    """An image of the store, RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def encode(picture: Image.Image, save: SaveOptions, settings: dict[str, Any] | None = None) -> bytes:
    """The file of an image, in the format that was asked for.

    Args:
        settings: to write into it; a JPEG file has no room for those beyond 64 KiB, which are left out.
    """
    buffer = io.BytesIO()
    text = None if settings is None else json.dumps(settings)
    if save.format == "png":
        chunks = PngInfo()
        if text is not None:
            chunks.add_itxt(PNG_KEY, text)
        picture.save(buffer, "PNG", optimize=True, pnginfo=chunks)
        return buffer.getvalue()
    exif = _exif(text) if text is not None else b""
    if save.format == "jpeg":
        if len(exif) > MAX_EXIF_BYTES:
            log.warning("settings too long for a JPEG file, left out", bytes=len(exif))
            exif = b""
        picture.save(buffer, "JPEG", quality=save.quality, optimize=True, exif=exif)
    else:
        picture.save(buffer, "WEBP", quality=save.quality, lossless=save.quality == 100, exif=exif)
    return buffer.getvalue()


def settings_of(file: bytes) -> dict[str, Any] | None:
    """What `encode` wrote into an image beside its pixels; none: nothing of the sort is there."""
    with Image.open(io.BytesIO(file)) as picture:
        text = picture.info.get(PNG_KEY)
        comment = picture.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
    if isinstance(comment, bytes) and comment.startswith(_ASCII):
        text = comment.removeprefix(_ASCII).decode("ascii")
    try:
        settings = json.loads(text or "")
    except ValueError:
        return None
    return settings if isinstance(settings, dict) else None


def contact_sheet(images: list[Image.Image], *, gap: int = 8, max_side: int = 4096) -> Image.Image:
    """Images of one size in rows, in order, as near to a square as they fit.

    Args:
        gap: pixels between them and around.
        max_side: pixels; they are made smaller where the sheet would be larger.
    """
    columns = next(count for count in range(1, len(images) + 1) if count * count >= len(images))
    rows = -(-len(images) // columns)
    room = [(max_side - gap) // count - gap for count in (columns, rows)]
    tiles = [picture.copy() for picture in images]
    for tile in tiles:
        tile.thumbnail((room[0], room[1]), Image.Resampling.LANCZOS)
    width, height = tiles[0].size
    sheet = Image.new("RGB", (gap + columns * (width + gap), gap + rows * (height + gap)), "white")
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet.paste(tile, (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet


def _exif(text: str) -> bytes:
    exif = Image.Exif()
    exif[SOFTWARE] = "Clipcanvas"
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = _ASCII + text.encode("ascii")
    return exif.tobytes()
