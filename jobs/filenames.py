"""The names of a job's files: what an attempt keeps in its folder, and what clients see of it."""

import re
from collections.abc import Iterator

from jobs.index_request import IndexRequest
from models.requests.request import GenerationRequest, SaveOptions

CHECKPOINT, PREVIEW, FRAMES = "checkpoint", "preview-{}.jpg", "frames"
IMAGE, SIDECAR, SVG, THUMBNAIL = "image-{}.{}", "image-{}.json", "image-{}.svg", "thumbnail-{}.{}"
CONTACT_SHEET, VIDEO, FRAMES_ZIP = "contact-sheet.{}", "video-{}.{}", "frames-{}.zip"

REPORT = "report.json"  # of a job that indexes

SUFFIX = {"png": "png", "jpeg": "jpg", "webp": "webp"}  # of the images, by SaveOptions.format

_FRAME = re.compile(r"frame-(?:0|[1-9]\d?)-\d{5}\.png")


def attempt_files(request: GenerationRequest | IndexRequest) -> list[str]:
    """Every file, or folder of files, that an attempt may have kept below its own folder."""
    if isinstance(request, IndexRequest):
        return [CHECKPOINT, REPORT]
    save = request.save
    return [
        CHECKPOINT,
        *([FRAMES] if save.video != "none" else []),
        *([CONTACT_SHEET.format(SUFFIX[save.format])] if save.contact_sheet else []),
        *(name for image in range(request.num_images) for name in _files_of(image, save)),
    ]


def _files_of(image: int, save: SaveOptions) -> Iterator[str]:
    yield PREVIEW.format(image)
    yield IMAGE.format(image, SUFFIX[save.format])
    yield SVG.format(image)
    if save.metadata:
        yield SIDECAR.format(image)
    if save.thumbnail:
        yield THUMBNAIL.format(image, SUFFIX[save.format])
    if save.video != "none":
        yield video_name(image, save)


def video_name(image: int, save: SaveOptions) -> str:
    """Of the film of one image."""
    return FRAMES_ZIP.format(image) if save.video == "frames" else VIDEO.format(image, save.video)


def frame_name(image: int, step: int) -> str:
    """Of a frame of one image's film, while the job runs."""
    return f"frame-{image}-{step:05d}.png"


def is_frame(name: str) -> bool:
    """Whether `frame_name` could have said that."""
    return bool(_FRAME.fullmatch(name))
