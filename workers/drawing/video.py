"""Films of drawings: frames kept losslessly as they are made, then one file, always the same bytes."""

import importlib.util
import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.filenames import FRAMES, frame_name
from jobs.record.record import Frame
from models.requests.generator import GenerationError, Step
from models.requests.request import SaveOptions
from storage.blobs import Store
from workers.drawing.background_writer import Writer

CONTENT_TYPES = {"mp4": "video/mp4", "webp": "image/webp", "frames": "application/zip"}

BT709, NARROW = 1, 1  # FFmpeg's numbers of the usual color space of video, and of its range 16 … 235
BITEXACT = 1 << 23  # AV_CODEC_FLAG_BITEXACT

Kept = tuple[tuple[str, int], ...]
"""Frames of an image: the folder of the attempt that kept each, and the step that it shows."""


class Film:
    """The frames of one image.

    Args:
        folder: of this attempt.
        writer: encodes and saves the frames; only in its thread `kept` is of one moment.
        tell: is told of each new frame, in that thread.
        kept: what earlier attempts have kept of this image, up to the checkpoint that is gone on from.

    Raises:
        GenerationError: PyAV is not installed, and the film needs it.
    """

    def __init__(
        self,
        image: int,
        save: SaveOptions,
        folder: str,
        store: Store,
        writer: Writer,
        tell: Callable[[Frame], None],
        kept: Kept = (),
    ) -> None:
        if save.video in ("mp4", "webp") and importlib.util.find_spec("av") is None:
            raise GenerationError(
                f"this worker has no PyAV to make {save.video} films with; it can save frames"
            )
        self._image, self._save, self._folder, self._store = image, save, folder, store
        self._writer, self._tell = writer, tell
        self.kept = kept

    def after(self, step: Step) -> None:
        """A step is done: keep a frame if it is time for one."""
        if self._save.video == "none" or not (step.index % self._save.frame_every == 0 or step.is_last):
            return
        self._writer.add(partial(self._keep, step.render(), step.index))

    def file(self) -> bytes:
        """The film of all frames, in the format that was asked for."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "film"
            match self._save.video:
                case "frames":
                    _write_zip(path, self._frames())
                case "mp4":
                    _write_mp4(path, map(_pixels, self._frames()), self._save.fps)
                case "webp":
                    _write_webp(path, map(_pixels, self._frames()), self._save)
            return path.read_bytes()

    def _keep(self, pixels: NDArray[np.uint8], step: int) -> None:
        if self.kept and self.kept[-1][1] >= step:
            self.kept = ()  # the checkpoint was not usable: the drawing has started over
        name = frame_name(self._image, step)
        self._store.save(f"{self._folder}/{FRAMES}/{name}", _png(pixels))
        self._tell(Frame(name, image=self._image, frame=len(self.kept), step=step))
        self.kept = (*self.kept, (self._folder, step))

    def _frames(self) -> Iterator[bytes]:
        for folder, step in self.kept:
            yield self._store.read(f"{folder}/{FRAMES}/{frame_name(self._image, step)}")


def _write_zip(path: Path, frames: Iterator[bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, data in enumerate(frames):
            archive.writestr(zipfile.ZipInfo(f"{number:05d}.png"), data)  # whose time is always the same


def _write_mp4(path: Path, images: Iterator[NDArray[np.uint8]], fps: int) -> None:
    # H.264 with 4:2:0, which every browser plays. One thread, no dates and no macroblock tree, which reads
    # memory that nobody has written (x264 165, by MALLOC_PERTURB_): for the same bytes each time
    options = {"crf": "18", "preset": "medium", "x264-params": "mbtree=0"}
    with _open_video(path, "mp4", {"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.pix_fmt = "yuv420p"
        stream.color_primaries = stream.color_trc = stream.colorspace = BT709
        stream.color_range = NARROW
        _encode(container, stream, map(_even, images), fps)


def _write_webp(path: Path, images: Iterator[NDArray[np.uint8]], save: SaveOptions) -> None:
    exact = save.quality == 100
    options = {"lossless": str(int(exact)), "quality": str(save.quality)}
    with _open_video(path, "webp", {"loop": "0"}) as container:
        stream = container.add_stream("libwebp_anim", rate=save.fps, options=options)
        stream.pix_fmt = "bgra" if exact else "yuv420p"
        _encode(container, stream, images, save.fps)


def _open_video(path: Path, kind: str, options: dict[str, str]) -> Any:
    import av  # all of FFmpeg, which most workers' jobs do not need

    return av.open(str(path), "w", format=kind, options={"fflags": "+bitexact", **options})


def _encode(container: Any, stream: Any, images: Iterator[NDArray[np.uint8]], fps: int) -> None:
    from av import VideoFrame

    stream.thread_count = 1
    stream.codec_context.flags |= BITEXACT
    for number, picture in enumerate(images):
        if number == 0:
            stream.height, stream.width = picture.shape[:2]
        frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format=stream.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        frame.pts, frame.time_base = number, Fraction(1, fps)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _even(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """With a last row and column repeated where there is an odd number of them."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)  # soon made is worth more than small
    return buffer.getvalue()


def _pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
