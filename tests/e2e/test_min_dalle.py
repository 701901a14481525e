"""DALL-E mini behind the job API: a small one in min-dalle's layout, through real processes."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from clipcanvas import JobCanceled
from models.weights_io.card import WEIGHTS
from tests.support.redis_server import RedisServer
from tests.support.service import Service
from tests.support.weights import wild

pytestmark = pytest.mark.timeout(300)

ASKED: dict[str, Any] = {"generator": "min_dalle", "seed": 7, "options": {"candidates": 64}}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights with a small min-dalle, converted as somebody types it."""
    weights = tmp_path_factory.mktemp("weights")
    wild.write_min_dalle(weights / "repository")
    wild.write_min_dalle_card(weights)
    for folder in ("clip-icons", "clip-words", "vqgan", "prior"):
        (weights / folder).symlink_to(WEIGHTS / folder)
    command = [sys.executable, "-m", "clipcanvas", "models", "convert", str(weights / "repository"), "tiny"]
    environment = os.environ | {"CLIPCANVAS_WEIGHTS": str(weights)}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert "tiny is here: a min-dalle" in made.stdout, made.stderr
    return weights


@pytest.fixture
def drawing(redis_server: RedisServer, weights: Path, tmp_path: Path) -> Iterator[Service]:
    """A service whose min_dalle is small."""
    service = Service(
        redis_server,
        tmp_path,
        CLIPCANVAS_WEIGHTS=str(weights),
        CLIPCANVAS_MIN_DALLE="tiny",
        CLIPCANVAS_GENERATORS='["min_dalle"]',
    )
    service.start("app")
    service.start("workers", "janitor")
    service.wait_until(service.alive)
    yield service
    service.stop()


def test_it_draws_and_goes_on_after_kill_9_to_the_same_bytes(drawing: Service) -> None:
    sheet = ASKED | {"num_images": 3, "save": {"contact_sheet": True}}
    worker = drawing.start("workers")
    with drawing.client() as client:
        job = client.create_job("a red heart", **sheet)
        running = drawing.wait_for(job.id, lambda job: bool(job.progress and job.progress.preview), 120)
        assert running.progress
        assert running.progress.steps == 3 * 256
        worker.kill()
        assert not client.job(job.id).is_final, "it was killed too late to tell"
        drawing.start("workers")
        ended = client.wait(job.id, timeout_s=200)
        whole = client.draw("a red heart", timeout_s=200, **sheet)
        assert (ended.attempt, whole.attempt) == (2, 1)
        images = [output for output in ended.outputs if output.kind == "image"]
        assert len(images) == 3
        for image in images:
            content = client.output(job.id, image.name)
            assert content == client.output(whole.id, image.name)
            assert Image.open(io.BytesIO(content)).size == (64, 64)
            assert image.clip_score is not None
        assert len({client.output(job.id, image.name) for image in images}) == 3
        assert any("sheet" in output.name for output in ended.outputs)


def test_it_says_what_it_is_refuses_what_it_cannot_and_is_canceled(drawing: Service) -> None:
    [told] = httpx.get(f"{drawing.url}/v1/generators").json()["data"]
    assert "not OpenAI's DALL-E" in told["description"]
    assert (told["model"]["name"], told["model"]["license"]) == ("tiny", "MIT")
    assert (told["defaults"]["width"], told["defaults"]["steps"]) == (64, 256)
    assert told["defaults"]["options"]["guidance"] == 16
    for asked, pointer in (
        ({"prompt": "心"}, "#/prompts/0"),
        ({"prompt": "a cat:-1"}, "#/prompts"),
        ({"prompt": "a cat", "width": 128}, "#/width"),
        ({"prompt": "a cat", "steps": 9}, "#/steps"),
        ({"prompt": "a cat", "options": {"init_image": "x"}}, "#/options/init_image"),
        ({"prompt": "a cat", "options": {"guidance": -1}}, "#/options/guidance"),
    ):
        refused = httpx.post(f"{drawing.url}/v1/jobs", json={"generator": "min_dalle", **asked})
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer), refused.text
    drawing.start("workers")
    with drawing.client() as client:
        long = client.create_job("a " * 20, generator="min_dalle")
        job = client.create_job("a red heart", **ASKED)
        failed = drawing.wait_for(long.id, lambda job: job.is_final, 120)
        assert failed.error
        assert "too long" in str(failed.error)
        drawing.wait_for(job.id, lambda job: bool(job.progress and job.progress.step > 10), 120)
        client.cancel(job.id)
        with pytest.raises(JobCanceled):
            client.wait(job.id, timeout_s=20)
        assert not client.job(job.id).outputs
