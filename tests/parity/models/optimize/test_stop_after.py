"""A drawing that ends early says which step is its last, and goes on from any step before to the same end."""

import numpy as np

from models.generators import complete, find
from models.networks.shared_networks import Networks
from models.requests.generator import Drawing
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse


def test_a_drawing_that_no_longer_gets_better_ends_at_the_same_step_interrupted_or_not():
    request = complete(
        NetworkNames(),
        generator="pixels",
        prompts=parse("a red heart"),
        width=32,
        height=32,
        steps=60,
        seed=3,
        options={"cutouts": 2, "learning_rate": 1e-6, "stop_after": 3, "rows": 8, "columns": 8},
    )
    generator = find("pixels").load(Networks(NetworkNames()))
    checkpoints, ends = {}, []
    for step in generator(Drawing(request, seed=3)):
        checkpoints[step.index] = step.checkpoint()
        ends.append(step.is_last)
    last = step
    assert ends == [False] * (last.index - 1) + [True]
    assert last.index < last.total == 60
    whole = last.render()
    for index in (last.index - 1, last.index // 2):
        steps = list(generator(Drawing(request, seed=3, resume_from=checkpoints[index])))
        assert [step.index for step in steps] == list(range(index + 1, last.index + 1))
        assert [step.is_last for step in steps] == [False] * (len(steps) - 1) + [True]
        assert np.array_equal(steps[-1].render(), whole)
