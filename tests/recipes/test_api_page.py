"""`docs/api.md`: its commands run; its requests and answers are compared elsewhere."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.recipes.conftest import Shell, blocks

pytestmark = pytest.mark.timeout(900)

COMMANDS = blocks("api.md", "bash")


def command(words: str) -> str:
    """The command of the page that has these words."""
    [found] = [text for text in COMMANDS if words in text]
    return found


def test_no_command_of_the_page_is_left_out() -> None:
    tried = set(re.findall(r'command\("(.+?)"\)', Path(__file__).read_text()))
    assert sorted(command(words) for words in tried) == sorted(COMMANDS)


def test_pictures_are_classified_and_embedded(shell: Shell) -> None:
    shell.photos("cat.jpg", "other.jpg")
    assert json.loads(shell.run(command("/v1/classify")))["data"][0]["labels"][0]["label"] == "cat"
    shell.run(command("vectors.npy"))
    rows = np.load(shell.folder / "vectors.npy")
    assert (rows.shape[0], rows.dtype) == (2, np.dtype("<f2"))


def test_pictures_are_added_to_a_collection_by_form_and_by_tar(shell: Shell) -> None:
    shell.photos("chelsea.jpg")
    shell.run("curl -f -X PUT http://127.0.0.1:8000/v1/collections/pets")
    assert json.loads(shell.run(command("cats/chelsea.jpg")))["data"][0]["id"] == "cats/chelsea.jpg"
    shell.run("tar cf pictures.tar chelsea.jpg")
    job_id = json.loads(shell.run(command("pictures.tar")))["id"]
    ended = shell.service.wait_for(job_id, lambda job: job.is_final, 120)
    assert ended.status == "succeeded"
    with shell.service.client() as client:
        assert client.collection("pets").info().count == 2


def test_a_picture_is_drawn_over(shell: Shell) -> None:
    shell.photos("cat.jpg")
    with Image.open(shell.folder / "cat.jpg") as picture:
        mask = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (100, 100, 200, 200))
    mask.save(shell.folder / "mask.png")
    assert "b64_json" in json.loads(shell.run(command("/v1/images/edits")))["data"][0]


def test_immich_gets_its_vector(shell: Shell) -> None:
    shell.photos("cat.jpg")
    answer = json.loads(shell.run(command("/predict")))
    assert len(json.loads(answer["clip"])) > 100
    assert (answer["imageHeight"], answer["imageWidth"]) == (300, 451)


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_a_client_in_typescript_is_made_out_of_the_document(shell: Shell) -> None:
    (shell.folder / "package.json").write_text('{"type": "module"}')
    shell.run(command("openapi-typescript"))
    [program] = blocks("api.md", "ts")
    (shell.folder / "draw.ts").write_text(shell.as_here(program))
    shell.run("npx tsc --strict --skipLibCheck --module nodenext --target es2022 draw.ts")
    told = shell.run("node draw.js")
    assert "/outputs/image-0.png" in told or told == "[]\n"  # it may take longer than a minute
