"""Several CLIPs: loaded when they are wanted, beside those that serve, within a budget of memory."""

import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

import app.clip.registry
from app.settings import ApiSettings
from models.catalog.memory import serving_memory
from models.clip.cards import find_card
from models.weights_io.card import WEIGHTS
from tests.support.live_api import LiveApi, StartApi, TinyClip

NAMES = ["demo-photo", "demo-icons", "ViT-B-32"]
MEMORY = {name: serving_memory(find_card(name, WEIGHTS), WEIGHTS, "fp32") for name in NAMES}


class Loads:
    """Loads small CLIPs under the names of large ones; counts and may be held."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.may_load = threading.Event()
        self.may_load.set()
        self.living: dict[str, weakref.ref[TinyClip]] = {}
        self.delay_s = 0.0

    def __call__(self, name: str) -> TinyClip:
        assert self.may_load.wait(20)
        self.names.append(name)
        clip = TinyClip(self.delay_s)
        clip.name = name
        self.living[name] = weakref.ref(clip)
        return clip


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.clip.registry, "QUIET_S", 0.2)


def ask(api: LiveApi, model: str, text: str = "a fox") -> httpx.Response:
    return api.http.post("/v1/embeddings", json={"input": text, "model": model})


def until(api: LiveApi, model: str) -> None:
    api.wait_until(lambda: ask(api, model).status_code == 200)


def statuses(api: LiveApi) -> list[str]:
    return [model["status"] for model in api.http.get("/v1/models").json()["data"]]


def bounded(*names: str, **settings: Any) -> dict[str, Any]:
    return {"clip_models": NAMES, "clip_memory": sum(MEMORY[name] for name in names), **settings}


def test_a_model_is_loaded_when_it_is_first_asked_for_while_others_serve(
    start_api: StartApi, loads: Loads
) -> None:
    api = start_api(load_clip=loads, clip_models=NAMES, clip_preload=["demo-photo"]).ready()
    assert statuses(api) == ["ready", "unloaded", "unloaded"]
    assert loads.names == ["demo-photo"]
    loads.may_load.clear()
    early = ask(api, "demo-icons")
    assert (early.status_code, early.json()["code"]) == (503, "model_loading")
    assert int(early.headers["retry-after"]) > 0
    assert statuses(api) == ["ready", "loading", "unloaded"]
    for number in range(20):
        assert ask(api, "demo-photo", f"text {number}").status_code == 200
    assert api.http.get("/readyz").status_code == 200
    loads.may_load.set()
    until(api, "demo-icons")
    assert ask(api, "demo-icons").json()["model"] == "demo-icons"
    assert loads.names == ["demo-photo", "demo-icons"]


def test_the_least_recently_used_is_put_out_and_loaded_again_when_wanted(
    start_api: StartApi, loads: Loads
) -> None:
    api = start_api(load_clip=loads, **bounded("demo-photo", "ViT-B-32")).ready()
    until(api, "demo-icons")
    until(api, "demo-photo")  # so that the other one is put out
    assert statuses(api) == ["ready", "ready", "unloaded"]
    until(api, "ViT-B-32")
    assert statuses(api) == ["ready", "unloaded", "ready"]
    api.wait_until(lambda: loads.living["demo-icons"]() is None)
    assert api.http.get("/readyz").status_code == 200
    until(api, "demo-icons")
    assert statuses(api)[1] == "ready"


def test_what_was_put_out_is_freed_without_the_garbage_collector(start_api: StartApi, loads: Loads) -> None:
    api = start_api(load_clip=loads, **bounded("ViT-B-32")).ready()
    ask(api, "demo-photo")
    gc.disable()  # a model may be frozen out of its sight
    try:
        until(api, "ViT-B-32")
        api.wait_until(lambda: loads.living["demo-photo"]() is None)
    finally:
        gc.enable()


def test_a_model_in_use_is_not_put_out(start_api: StartApi, loads: Loads) -> None:
    loads.delay_s = 0.02
    api = start_api(
        load_clip=loads, max_batch_texts=1, **bounded("ViT-B-32", clip_preload=["ViT-B-32"])
    ).ready()

    def bulk() -> int:
        body = {"input": [f"text {n}" for n in range(100)], "model": "ViT-B-32"}
        return api.http.post("/v1/embeddings", json=body).status_code

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(bulk)
        time.sleep(0.3)
        while not asking.done():
            answer = ask(api, "demo-photo")
            assert asking.done() or answer.json()["code"] == "model_loading"
            time.sleep(0.1)
        assert asking.result() == 200
    until(api, "demo-photo")


def test_a_model_that_never_fits_says_so_and_the_rest_serves(start_api: StartApi, loads: Loads) -> None:
    api = start_api(load_clip=loads, **bounded("demo-photo")).ready()
    ask(api, "ViT-B-32")
    api.wait_until(lambda: ask(api, "ViT-B-32").json()["code"] == "model_unavailable")
    assert ask(api, "demo-photo").status_code == 200
    assert statuses(api) == ["ready", "unloaded", "failed"]


def test_a_failed_load_is_tried_again_later(start_api: StartApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.clip.registry, "RETRY_S", 0.5)
    fails = iter([True, False])

    def load(name: str) -> TinyClip:
        if name == "demo-icons" and next(fails):
            raise OSError("the hub is away")
        return TinyClip()

    api = start_api(load_clip=load, clip_models=NAMES, clip_preload=["demo-photo"]).ready()
    ask(api, "demo-icons")
    api.wait_until(lambda: ask(api, "demo-icons").json().get("code") == "model_unavailable")
    until(api, "demo-icons")


def test_two_models_that_take_turns_both_get_served(start_api: StartApi, loads: Loads) -> None:
    api = start_api(load_clip=loads, **bounded("ViT-B-32")).ready()
    for name in ["ViT-B-32", "demo-photo"] * 2:
        until(api, name)


def test_preloading_what_is_not_served_is_refused() -> None:
    with pytest.raises(ValidationError, match="clip_preload"):
        ApiSettings(clip_preload=("ViT-L-14",))


def test_all_are_loaded_at_the_start_unless_memory_is_bounded() -> None:
    load: Callable[..., ApiSettings] = ApiSettings
    assert load(clip_models=("a", "b")).preloaded_clips == ("a", "b")
    assert load(clip_models=("a", "b"), clip_memory=10**9).preloaded_clips == ("a",)


@pytest.mark.parametrize("batches", [(), (1, 8)])
def test_a_model_is_compiled_before_it_serves(start_api: StartApi, batches: tuple[int, ...]) -> None:
    clip = TinyClip()
    api = start_api(load_clip=lambda name: clip, clip_compile_batches=batches, cuda_graphs=True).ready()
    assert clip.compiled == ([(batches, True)] if batches else [])
    assert ask(api, "demo-photo").status_code == 200


def test_a_model_that_cannot_be_compiled_serves_without(start_api: StartApi) -> None:
    class Uncompiled(TinyClip):
        def compile(self, batches: object, *, graphs: bool) -> None:
            raise RuntimeError("no compiler here")

    api = start_api(load_clip=lambda name: Uncompiled(), clip_compile_batches=(1, 8)).ready()
    assert ask(api, "demo-photo").status_code == 200
