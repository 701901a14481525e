"""`docs/cli.md`: the examples of each command's help, run one after the other against the service."""

import json
import re

import pytest
from PIL import Image

from tests.recipes.conftest import Shell, blocks

pytestmark = pytest.mark.timeout(1500)

EXAMPLES = re.findall(r"^ +(clipcanvas .+)$", "\n".join(blocks("cli.md", "text")), re.MULTILINE)
# they start a service of their own: test_launcher_*.py; or fetch what is not there: test_real_formats.py
ELSEWHERE = re.compile(r"clipcanvas (serve|doctor|models pull|models convert)\b")
SLOW = re.compile(r"clipcanvas draw (?!.*(-o|--detach))")  # those are created and canceled
FIRST, LAST = "collections create", "collections delete"


def test_the_examples_of_every_command_work(shell: Shell) -> None:
    """What they print is looked at elsewhere; here they end with 0."""
    shell.photos("cat.jpg", "photo.jpg", "photos/a.jpg", "photos/b.jpg")
    shell.run("tar cf photos.tar photos")
    examples = [example for example in EXAMPLES if not ELSEWHERE.match(example)]
    assert len(examples) > 30
    examples.sort(key=lambda example: (LAST in example) - (FIRST in example))
    told = {example: run(shell, example) for example in examples}
    with Image.open(shell.folder / "heart.png") as picture:
        assert picture.format == "PNG"
    assert "holidays" in told["clipcanvas collections list"]
    assert (shell.folder / "holidays.ndjson").read_text().count("\n") > 2
    # what ends otherwise than with 0 would have been told by `run`
    assert json.loads(told["clipcanvas top --json"])["queue"]["workers"]


def run(shell: Shell, example: str) -> str:
    """Run it; for the job that it names there is one."""
    if "job_01abc" not in example:
        created = shell.run(f"{example} --detach" if SLOW.match(example) else example)
        if SLOW.match(example) or "--detach" in example:
            shell.run(f"clipcanvas jobs cancel {created.strip()}")
        return created
    generator = "vqgan_clip" if "cancel" in example else "gradient"
    job_id = shell.run(f"clipcanvas draw 'a fox' --generator {generator} --detach").strip()
    return shell.run(example.replace("job_01abc", job_id))
