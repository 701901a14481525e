"""A service whose weights are not there says what to type, wherever somebody looks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.live_api import StartApi, live_api
from tests.support.redis_server import RedisServer

PULL = "clipcanvas models pull"


def test_the_api_says_it_in_its_answer_and_serves_on(redis_server: RedisServer, tmp_path: Path) -> None:
    settings = {"clip_models": ("ViT-B-32",), "weights": tmp_path}
    with live_api(redis_server.url, (tmp_path / "store").as_uri(), None, **settings) as api:
        api.wait_until(lambda: "failed" in api.http.get("/readyz").text, 60)
        answer = api.http.post("/v1/embeddings", json={"input": "a fox"})
        assert (answer.status_code, answer.json()["code"]) == (503, "model_unavailable")
        for text in (answer.text, api.http.get("/readyz").text):
            assert f"{PULL} ViT-B-32" in text
            assert str(tmp_path) not in text
        job = {"prompt": "a fox", "generator": "gradient", "width": 32, "height": 32}
        assert api.http.post("/v1/jobs", json=job).status_code == 202


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"CLIPCANVAS_VQGAN": "imagenet-f16-16384"}, "imagenet-f16-16384"),
        ({"CLIPCANVAS_GUIDES": '["ViT-B-32"]'}, "ViT-B-32"),
        ({"CLIPCANVAS_GENERATORS": '["min_dalle"]'}, "min-dalle-mini"),
        ({"CLIPCANVAS_GENERATORS": '["unclip"]'}, "karlo-v1-alpha"),
    ],
)
@pytest.mark.timeout(120)
def test_a_worker_ends_with_4_and_says_it_in_its_log_and_its_pulse(
    redis_server: RedisServer, start_api: StartApi, tmp_path: Path, settings: dict[str, str], name: str
) -> None:
    environment = {
        **os.environ,
        **settings,
        "CLIPCANVAS_REDIS_URL": redis_server.url,
        "CLIPCANVAS_STORE": (tmp_path / "store").as_uri(),
        "CLIPCANVAS_HEARTBEAT_S": "1",
    }
    api = start_api()
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen([sys.executable, "-m", "workers"], env=environment, stdout=log, stderr=log)
        api.wait_until(lambda: PULL in api.http.get("/v1/queue").text or worker.poll() is not None, 100)
        assert worker.wait(30) == 4
    assert f"{PULL} {name}" in (tmp_path / "log").read_text()
