"""The API on a real port, in a thread of the test's process, with a small CLIP that tests can look into."""

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from app.http.server import BoundedHttp
from app.main import create_app
from app.settings import ApiSettings
from models.clip import ClipEncoder, Embeddings, Pixels, TextTooLong

POISON = "poison"


class TinyClip:
    """Embeds an image by the colors of its 16 fields, a text by a hash; `POISON` fails its batch."""

    name = "tiny"
    dimension = 48
    image_size = 16
    context_length = 20
    logit_scale = 50.0
    logit_bias: float | None = None
    draft_size: int | None = None
    on_cpu = False  # batches one after the other, as on a GPU

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.batches: list[int] = []  # sizes of the calls
        self.texts: list[str] = []  # all that were encoded
        self.compiled: list[tuple[Sequence[int], bool]] = []

    def preprocess(self, image: Image.Image, *, exact: bool = True) -> Pixels:
        assert image.mode == "RGB"
        return np.asarray(image.resize((16, 16))).transpose(2, 0, 1)

    def count_tokens(self, text: str) -> int:
        return len(text.split()) + 2

    def compile(self, batches: Sequence[int], *, graphs: bool) -> None:
        self.compiled.append((batches, graphs))

    def encode_images(self, pixels: Pixels) -> Embeddings:
        self._work(len(pixels))
        fields = pixels.reshape(-1, 3, 4, 4, 4, 4).mean((3, 5)).reshape(len(pixels), -1)  # (N, 48)
        return _unit(fields + 1)

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        self._work(len(texts))
        if any(POISON in text for text in texts):
            raise RuntimeError("/secret/path: the device is on fire")
        if any(self.count_tokens(text) > self.context_length for text in texts):
            raise TextTooLong("too long")
        self.texts.extend(texts)
        return _unit(np.stack([text_vector(text) for text in texts]))

    def _work(self, size: int) -> None:
        self.batches.append(size)
        time.sleep(self.delay_s)


def text_vector(text: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What `TinyClip` makes of a text: (48,) of unit length."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    vector = np.random.Generator(np.random.PCG64(seed)).normal(size=48)
    return vector / np.linalg.norm(vector)


def _unit(rows: np.ndarray[Any, Any]) -> Embeddings:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class LiveApi:
    """An API that listens; `http` is a client of it."""

    def __init__(self, settings: ApiSettings, load_clip: Callable[[str], ClipEncoder] | None) -> None:
        self.settings = settings
        self.stopping = asyncio.Event()
        self.app = create_app(settings, stopping=self.stopping, load_clip=load_clip)
        config = uvicorn.Config(
            self.app, http=BoundedHttp, log_config=None, access_log=False, timeout_graceful_shutdown=5
        )
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=30)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    def start(self) -> None:
        self._thread.start()
        self.wait_until(lambda: self._server.started)

    def ready(self, seconds: float = 60) -> "LiveApi":
        """Wait until every part is."""
        self.wait_until(lambda: self.http.get("/readyz").status_code == 200, seconds)
        return self

    def stop(self) -> None:
        self.http.close()
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._socket.close()

    @staticmethod
    def wait_until(promise: Callable[[], bool], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not promise():
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(0.02)


StartApi = Callable[..., LiveApi]
"""The fixture `start_api`: starts an API with settings of the test's choice."""


@contextmanager
def live_api(
    redis_url: str, store: str, load_clip: Callable[[str], ClipEncoder] | None, **settings: Any
) -> Iterator[LiveApi]:
    """An API with these settings."""
    values = {"redis_url": redis_url, "store": store, "clip_warm_up_s": 0, **settings}
    api = LiveApi(ApiSettings(**values), load_clip)
    api.start()
    try:
        yield api
    finally:
        api.stop()
