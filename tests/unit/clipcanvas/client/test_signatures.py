"""What tools read of the clients is true: signatures, help, coroutines, and mocks made from them."""

import inspect
import pydoc
from typing import Any
from unittest.mock import create_autospec

import pytest

from clipcanvas import AsyncClient, AsyncClientJob, Client, ClientJob
from clipcanvas.client.collections.async_collection import AsyncCollection
from clipcanvas.client.collections.collection import Collection
from clipcanvas.client.results import Job

PAIRS = [(Client, AsyncClient), (ClientJob, AsyncClientJob), (Collection, AsyncCollection)]
ITERATE = {"events", "every_job", "every_image", "every_duplicate", "export"}
AT_ONCE = {"of", "collection"}  # ask nothing of the service


def methods(kind: type) -> dict[str, Any]:
    inherited = dir(Job) if issubclass(kind, Job) else dir(object)
    return {
        name: getattr(kind, name)
        for name in dir(kind)
        if not name.startswith("_") and name not in inherited and callable(getattr(kind, name))
    }


def parameters(method: Any) -> list[tuple[str, Any, Any]]:
    listed = inspect.signature(method).parameters.values()
    return [(each.name, each.kind, each.default) for each in listed]


@pytest.mark.parametrize(("blocking", "awaited"), PAIRS)
def test_both_clients_have_the_same_methods_with_the_same_parameters(blocking: type, awaited: type) -> None:
    assert methods(blocking).keys() == methods(awaited).keys()
    for name, method in methods(blocking).items():
        assert parameters(method) == parameters(methods(awaited)[name]), name


@pytest.mark.parametrize(("blocking", "awaited"), PAIRS)
def test_methods_of_the_async_client_are_coroutines_or_iterate(blocking: type, awaited: type) -> None:
    for name, method in methods(awaited).items():
        assert inspect.iscoroutinefunction(method) == (name not in ITERATE | AT_ONCE), name
        returned = str(inspect.signature(method).return_annotation)
        assert ("AsyncIterator" in returned) == (name in ITERATE), name
    assert not any(inspect.iscoroutinefunction(method) for method in methods(blocking).values())


@pytest.mark.parametrize("kind", [kind for pair in PAIRS for kind in pair])
def test_a_method_belongs_to_its_class_and_says_what_it_does(kind: type) -> None:
    for name, method in methods(kind).items():
        assert method.__qualname__ == f"{kind.__name__}.{name}"
        assert method.__module__ == kind.__module__
        assert method.__doc__, name
        assert "Call[" not in str(inspect.signature(method)), "an internal type"


def test_help_shows_the_arguments() -> None:
    shown = pydoc.plain(pydoc.render_doc(Client.classify))
    assert "in module clipcanvas.client.client" in shown
    for part in ("self", "images", "labels", "templates", "-> clipcanvas.client.results.Classifications"):
        assert part in shown
    assert list(inspect.signature(Client("http://127.0.0.1:1").classify).parameters)[:2] == [
        "images",
        "labels",
    ]


def test_mocks_made_from_the_clients_take_right_calls_and_refuse_wrong_ones() -> None:
    client = create_autospec(Client, instance=True)
    client.classify("cat.jpg", ["cat", "dog"], top_k=1)
    client.create_job("a fox", width=64, seed=1).wait(timeout_s=1)
    client.draw("a fox", steps=3)
    with pytest.raises(TypeError):
        client.classify("cat.jpg", ["cat"], lables=1)
    with pytest.raises(TypeError):
        client.classify()
    create_autospec(ClientJob, instance=True).save("x.png", image=1)
    collection = create_autospec(Collection, instance=True)
    collection.search("a cat", top_k=3)
    with pytest.raises(TypeError):
        collection.search("a cat", topk=3)


async def test_mocks_of_the_async_client_are_awaited() -> None:
    client = create_autospec(AsyncClient, instance=True)
    await client.classify("cat.jpg", ["cat", "dog"])
    await create_autospec(AsyncCollection, instance=True).add(["cat.jpg"])
    with pytest.raises(TypeError):
        client.embed()
