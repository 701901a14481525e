"""`make gallery`: draw every example of examples.toml with the demo models, and write docs/generation.md.

`python docs/gallery/draw.py [NAME …]` draws these anew, and those whose images are missing.
"""

import argparse
import html
import io
import json
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from clipcanvas.client.client import Client  # noqa: E402 - importable from any folder only now
from clipcanvas.client.results import Prompt  # noqa: E402
from clipcanvas.demo import service  # noqa: E402

PAGE = HERE.parent / "generation.md"
SIDE = 160  # pixels, of the images on the page
WRITTEN = "<!-- Written by docs/gallery/draw.py: edit examples.toml, not this page. -->"
INTRO = """\
# What can be drawn, and how

Every image here was drawn by a running service with the demo models: `make gallery` sends each request to
`POST /v1/jobs` and keeps what comes back. `<cat>` stands for the photo of the demo, `<disk>` for a white disk
on black, `<stripes>` for blue stripes on yellow. The demo models are small and know icons; the options do the
same with larger ones. `GET /v1/generators` has every option with its bounds and its default."""
OUTRO = """\
## What is not here

Programs of the field had these as well; this service leaves them out:

- losses by networks of their own (how pleasing, how memorable), larger images by a network made for it,
  frames in between others: steps of a client's own, after the job;
- drawing by diffusion: a generator of its own, [one file](adding.md);
- a film redrawn frame by frame: a job for each, with its `init_image` and the same `seed`;
- prompts for one part of an image beside others for the rest: a job for each part, with its `mask`;
- triangles, diamonds and stitches as pixels; wavelets; images with transparent parts."""


def main() -> int:
    """Draw what is to be drawn; the exit code is 0 if every example has its image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="examples to draw anew; `all` for every one")
    parser.add_argument("--page", action="store_true", help="draw nothing, write the page only")
    chosen = parser.parse_args()
    sections = tomllib.loads((HERE / "examples.toml").read_text())["section"]
    examples = [example for section in sections for example in section["example"]]
    wanted = [
        example
        for example in examples
        if "all" in chosen.names or example["name"] in chosen.names or not image_path(example).exists()
    ]
    if wanted and not chosen.page:
        with tempfile.TemporaryDirectory() as data, service(Path(data)) as client:
            for example in wanted:
                draw(client, example)
    PAGE.write_text(page(sections))
    return 0


def draw(client: Client, example: dict[str, Any]) -> None:
    """Send an example's request, wait, and keep its image, its sheet or its film."""
    started = time.perf_counter()
    request = filled(json.loads(example["request"]))
    prompt = request.pop("prompt", None) or [Prompt(**fields) for fields in request.pop("prompts")]
    job = client.draw(prompt, **request)
    outputs = {output.kind: output for output in reversed(job.outputs)}  # of images, the first
    shown = next(outputs[kind] for kind in ("video", "contact_sheet", "image") if kind in outputs)
    data = client.output(job.id, shown.name)
    if shown.kind == "video":
        image_path(example).write_bytes(data)
    else:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        if example.get("two_by_two"):
            image = two_by_two(image)
        image.thumbnail((2 * SIDE, 2 * SIDE))
        image.save(image_path(example), quality=85, method=6)
    size = f"{shown.width}x{shown.height}"
    seconds = time.perf_counter() - started
    print(f"{example['name']:<20} {size:>9} {job.progress.step:4} steps {seconds:6.1f} s")


def filled(value: Any) -> Any:
    """A request with the bytes of images in their places."""
    if isinstance(value, dict):
        return {key: filled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item) for item in value]
    if isinstance(value, str) and value.startswith("<"):
        return image_named(value.strip("<>"))
    return value


def image_named(name: str) -> bytes:
    """The bytes of an image that requests use."""
    if name == "cat":
        return (ROOT / "examples" / "cat.jpg").read_bytes()
    if name == "disk":
        disk, file = Image.new("L", (192, 192)), io.BytesIO()
        ImageDraw.Draw(disk).ellipse((40, 40, 151, 151), fill=255)
        disk.save(file, "PNG")
        return file.getvalue()
    if name == "stripes":
        stripes, file = Image.new("RGB", (192, 192), "#f4d35e"), io.BytesIO()
        for left in range(-192, 192, 32):
            ImageDraw.Draw(stripes).line((left, 0, left + 192, 192), fill="#0d3b66", width=9)
        stripes.save(file, "PNG")
        return file.getvalue()
    return (HERE / f"{name}.webp").read_bytes()


def two_by_two(tile: Image.Image) -> Image.Image:
    """Four of it side by side, as a tile is meant to be seen."""
    wall = Image.new("RGB", (2 * tile.width, 2 * tile.height))
    for place in ((0, 0), (tile.width, 0), (0, tile.height), tile.size):
        wall.paste(tile, place)
    return wall


def image_path(example: dict[str, Any]) -> Path:
    """Where an example's image lies."""
    return HERE / f"{example['name']}.webp"


def page(sections: list[dict[str, Any]]) -> str:
    """The page: a table for each section."""
    parts = [INTRO, WRITTEN]
    for section in sections:
        table = ["| Feature | Option | Request | Image |", "| --- | --- | --- | --- |"]
        for example in section["example"]:
            name, feature = example["name"], html.escape(example["feature"])
            request = html.escape(example["request"], quote=False).replace("|", "&#124;")
            option = example["option"].replace("|", "\\|")
            image = f'<img src="gallery/{name}.webp" width="{SIDE}" alt="{feature}">'
            table.append(f"| {feature} | {option} | <code>{request}</code> | {image} |")
        parts.append(f"## {section['title']}\n\n{section['text'].strip()}\n\n" + "\n".join(table))
    return "\n\n".join([*parts, OUTRO]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
