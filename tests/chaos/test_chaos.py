"""Whatever dies while jobs run, each accepted job ends once, with the images of a quiet run."""

from pathlib import Path

import pytest

from tests.chaos.driver import report, run


@pytest.mark.timeout(300)
def test_nothing_is_lost_while_everything_is_killed(tmp_path: Path) -> None:
    """Twenty seconds of it; `make test-chaos` takes two minutes and a new seed each time."""
    diary = run(20, seed=1, folder=tmp_path)
    assert not diary.problems, "\n".join((report(diary), *diary.lines))
    assert diary.counts["jobs succeeded"], "there was something to lose"
