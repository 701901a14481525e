"""What a job keeps of its pictures: their files, and what was asked for beside them."""

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
from numpy.typing import NDArray
from PIL import Image

from jobs.filenames import CONTACT_SHEET, PICTURE, PREVIEW, SIDECAR, SUFFIX, SVG, THUMBNAIL, video_name
from jobs.record.record import Job, Output
from models.requests.generator import Step
from models.requests.request import GenerationRequest
from storage.blobs import Store
from workers.drawing.image_files import CONTENT_TYPES, contact_sheet, encode
from workers.drawing.video import CONTENT_TYPES as FILM_TYPES
from workers.drawing.video import Film


def versions() -> dict[str, str]:
    """Of all that has a part in a picture's bytes."""
    told = {"python": platform.python_version()}
    for name in ("clipcanvas", "torch", "numpy", "pillow", "open_clip_torch", "av"):
        with contextlib.suppress(metadata.PackageNotFoundError):  # such as when run from the sources
            told[name] = metadata.version(name)
    return told


@dataclass(frozen=True)
class Drawn:
    """A finished picture, apart from what drew it: what that goes on to draw does not change it."""

    pixels: NDArray[np.uint8]  # (H, W, 3)
    score: float | None
    held_out_score: float | None
    svg: str | None

    @classmethod
    def of(cls, step: Step) -> "Drawn":
        """What the last step shows."""
        return cls(
            step.render(),
            step.score() if step.score else None,
            step.held_out_score() if step.held_out_score else None,
            step.svg() if step.svg else None,
        )


@dataclass(frozen=True)
class Keeper:
    """Keeps the outputs of one attempt.

    Args:
        folder: of the attempt, in the store.
        about: versions and names of what draws, which go into pictures and sidecars.
    """

    job: Job
    folder: str
    store: Store
    about: Mapping[str, str]

    def picture(self, drawn: Drawn, image: int, film: Film) -> tuple[Output, ...]:
        """All of a finished picture."""
        request = self.job.drawing
        save, seed, suffix = request.save, request.seed_of(image), SUFFIX[request.save.format]
        picture = Image.fromarray(drawn.pixels)
        settings = recipe(request, seed, self.about) if save.metadata else None
        size = {"width": picture.width, "height": picture.height}
        kept = [
            self._keep(
                PICTURE.format(image, suffix),
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
            kept.append(self._picture(name, small, "thumbnail", seed=seed))
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
        """What is to be published: the pictures first, and what shows all of them."""
        save = self.job.drawing.save
        pictures = [output for output in outputs if output.kind == "image"]
        rest = [output for output in outputs if output.kind != "image"]
        if save.contact_sheet:
            sheet = contact_sheet([open_picture(self.store.read(output.key)) for output in pictures])
            rest.append(self._picture(CONTACT_SHEET.format(SUFFIX[save.format]), sheet, "contact_sheet"))
        return (*pictures, *rest)

    def preview(self, pixels: NDArray[np.uint8], image: int) -> Output:
        """How a picture looks by now: (H, W, 3)"""
        picture = Image.fromarray(pixels)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        size = {"width": picture.width, "height": picture.height}
        return self._keep(PREVIEW.format(image), buffer.getvalue(), "image/jpeg", "preview", **size)

    def _picture(self, name: str, picture: Image.Image, kind: str, seed: int | None = None) -> Output:
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
    request: GenerationRequest, seed: int, about: Mapping[str, str], pictures: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A body for `POST /v1/jobs` that draws one picture of a request again, alone.

    Args:
        seed: of that picture.
        pictures: what is said in place of the names of the request's pictures; none: the names.
    """
    said = pictures or {}
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


def open_picture(data: bytes) -> Image.Image:
    """A picture of the store, RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")
