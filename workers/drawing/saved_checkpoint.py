"""Where an attempt of a job ended, as bytes: what the next one needs to go on from there."""

import json
from dataclasses import asdict, dataclass

import structlog

from jobs.record.record import Output
from storage.blobs import KeyMissing, Store
from workers.drawing.video import Kept

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Resume:
    """How far a job is."""

    image: int = 0  # pictures that are finished
    drawn: int = 0  # steps of those
    outputs: tuple[Output, ...] = ()  # of those
    frames: Kept = ()  # of the next one
    state: bytes | None = None  # of the next one: the generator's own checkpoint

    def pack(self) -> bytes:
        """A line of JSON, then the state."""
        head = {
            "image": self.image,
            "drawn": self.drawn,
            "outputs": [asdict(output) for output in self.outputs],
            "frames": self.frames,
        }
        return json.dumps(head).encode() + b"\n" + (self.state or b"")


def load(store: Store, key: str | None) -> Resume:
    """What was kept under that key; from the start, if nothing was that can be read."""
    if key is None:
        return Resume()
    try:
        head, _, state = store.read(key).partition(b"\n")
        fields = json.loads(head)
        return Resume(
            int(fields["image"]),
            int(fields["drawn"]),
            tuple(Output(**output) for output in fields["outputs"]),
            tuple((str(folder), int(step)) for folder, step in fields["frames"]),
            state,
        )
    except (KeyMissing, ValueError, TypeError, KeyError):
        log.warning("checkpoint unreadable, starting over", key=key)
        return Resume()
