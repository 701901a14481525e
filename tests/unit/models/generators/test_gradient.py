"""The gradient generator: no weights, no torch, the same picture for the same seed."""

import numpy as np
import pytest

from models.generators import complete, find
from models.requests.checkpoint import CheckpointUnusable, pack, unpack
from models.requests.generator import Drawing
from models.requests.network_names import NetworkNames
from models.requests.request import GenerationRequest, Prompt

NAMES = NetworkNames()


def request_of(**changes) -> GenerationRequest:
    values = {"prompts": (Prompt(text="dawn"),), "width": 33, "height": 17, "steps": 6, "seed": 5} | changes
    return complete(NAMES, generator="gradient", **values)


def steps_of(request, seed=5, checkpoint=None):
    generator = find("gradient").load(networks=None)
    return list(generator(Drawing(request, seed=seed, resume_from=checkpoint)))


def test_a_picture_has_the_size_asked_for():
    last = steps_of(request_of())[-1]
    assert last.render().shape == (17, 33, 3)
    assert (last.index, last.total) == (6, 6)


def test_the_same_seed_gives_the_same_picture_and_another_one_another():
    first, again, other = (steps_of(request_of(), seed=seed)[-1].render() for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("stopped_at", [1, 3, 5])
def test_an_interrupted_picture_ends_as_if_it_had_not_been(stopped_at):
    whole = steps_of(request_of())
    rest = steps_of(request_of(), checkpoint=whole[stopped_at - 1].checkpoint())
    assert [step.index for step in whole[stopped_at:]] == [step.index for step in rest]
    assert np.array_equal(whole[-1].render(), rest[-1].render())


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-1], lambda b: b[:40] + b"x" + b[41:]])
def test_a_damaged_checkpoint_is_refused_at_once(damage):
    checkpoint = steps_of(request_of())[2].checkpoint()
    generator = find("gradient").load(networks=None)
    with pytest.raises(CheckpointUnusable, match="damaged"):
        generator(Drawing(request_of(), seed=5, resume_from=damage(checkpoint)))


@pytest.mark.parametrize(("changes", "seed"), [({"steps": 7}, 5), ({}, 6), ({"width": 34}, 5)])
def test_a_checkpoint_of_another_picture_is_refused(changes, seed):
    checkpoint = steps_of(request_of())[2].checkpoint()
    with pytest.raises(CheckpointUnusable, match="another request"):
        steps_of(request_of(**changes), seed=seed, checkpoint=checkpoint)


def test_a_snapshot_keeps_arrays_as_they_were():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.array([7], dtype=np.uint8)}
    step, kept = unpack(pack(arrays, request=request_of(), seed=1, step=4), request=request_of(), seed=1)
    assert step == 4
    assert arrays.keys() == kept.keys()
    for name, array in arrays.items():
        assert np.array_equal(array, kept[name])
        assert array.dtype == kept[name].dtype
