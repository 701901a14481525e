"""`docs/python.md`: its programs run, one after the other."""

import pytest
from PIL import Image

from tests.recipes.conftest import Shell, blocks

pytestmark = pytest.mark.timeout(900)


def test_the_programs_of_the_page_do_what_it_says(shell: Shell) -> None:
    lines = shell.run("python -", "\n".join(blocks("python.md", "python"))).splitlines()
    assert lines[0] == "cat"
    assert lines[2].startswith("0 ")
    assert "30/30" in lines
    assert "40 of 40" in lines
    assert lines[-1] == "{}"
    with Image.open(shell.folder / "heart.png") as picture:
        assert f"{picture.size} 7" in lines
