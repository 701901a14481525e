"""What the tests of training share: a handful of pictures, rendered as `training.pictures` renders them."""

from pathlib import Path

import pytest

from training.data import images, sets
from training.data.batches import Album

SHAPES = {
    "red circle": '<circle cx="8" cy="8" r="6" fill="#d22"/>',
    "blue square": '<rect x="3" y="3" width="10" height="10" fill="#26c"/>',
    "green bar": '<rect y="6" width="16" height="4" fill="#2a4"/>',
    "yellow triangle": '<path d="M8 2L14 14H2z" fill="#fd3"/>',
}


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four shapes of Noto, two of OpenMoji, a photo, and nothing to use of the others."""
    folder = tmp_path_factory.mktemp("pictures")
    disc = svg('<circle cx="8" cy="8" r="3" fill="#d22"/>')
    ring = svg('<circle cx="8" cy="8" r="5" fill="none" stroke="#528" stroke-width="2"/>')
    for chosen in sets.BY_NAME.values():
        rows = [images.Drawing(images.Caption("red circle"), disc)]
        if chosen.name == "noto":
            rows = [images.Drawing(images.Caption(name), svg(body)) for name, body in SHAPES.items()]
        elif chosen.name == "openmoji":
            rows.append(images.Drawing(images.Caption("purple ring"), ring))
        elif chosen.name == "tuxpaint":
            rows = [images.Drawing(images.Caption("ring", ("animals", "birds"), is_photo=True), ring)]
        images.render(rows, folder / chosen.name)
    twins = {chosen.name: [] if chosen.name == "noto" else [0] for chosen in sets.TRAINING}
    (folder / "twins.json").write_text(images.json.dumps(twins))
    (folder / "keywords.json").write_text('{"red circle": ["disc"]}')
    return folder


@pytest.fixture(scope="session")
def album(filled: Path) -> Album:
    return Album.open(filled)


def svg(body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" width="128" height="128">{body}</svg>'
    )
