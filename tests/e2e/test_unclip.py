"""unCLIP behind the job API: small random models in the layout of Karlo's, through real processes."""

import base64
import io
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
from tests.support.images import plain
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = pytest.mark.timeout(300)

LONG: dict[str, Any] = {
    "generator": "unclip",
    "seed": 7,
    "options": {"prior_steps": 60, "decoder_steps": 200, "upscaling_steps": 60},
}
PHOTO = base64.b64encode(plain("red")).decode()

WRITE = """
import sys
from pathlib import Path
from tests.support.weights.unclip_folders import write_unclip
for reads in ("text", "image"):
    write_unclip(Path(sys.argv[1]) / f"tiny-{reads}", reads)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models; written in a process of its own, as this one has no need of torch."""
    weights = tmp_path_factory.mktemp("weights")
    subprocess.run([sys.executable, "-c", WRITE, str(weights)], check=True, timeout=200)
    for folder in ("clip-icons", "clip-words", "vqgan", "prior"):
        (weights / folder).symlink_to(WEIGHTS / folder)
    return weights


@pytest.fixture
def drawing(redis_server: RedisServer, weights: Path, tmp_path: Path) -> Iterator[Service]:
    """A service whose unclip is small."""
    service = Service(
        redis_server,
        tmp_path,
        CLIPCANVAS_WEIGHTS=str(weights),
        CLIPCANVAS_UNCLIP='["tiny-text", "tiny-image"]',
        CLIPCANVAS_GENERATORS='["unclip"]',
        CLIPCANVAS_CHECKPOINT_EVERY_S="0.2",
    )
    service.start("app")
    service.start("workers", "janitor")
    service.wait_until(service.alive)
    yield service
    service.stop()


def test_it_draws_and_goes_on_after_kill_9_to_the_same_bytes(drawing: Service) -> None:
    worker = drawing.start("workers")
    with drawing.client() as client:
        job = client.create_job("a red heart", num_images=2, **LONG)
        running = drawing.wait_for(job.id, lambda job: bool(job.progress and job.progress.step > 70), 120)
        assert running.progress
        assert running.progress.steps == 2 * 320
        worker.kill()
        assert not client.job(job.id).is_final, "it was killed too late to tell"
        drawing.start("workers")
        ended = client.wait(job.id, timeout_s=200)
        whole = client.draw("a red heart", num_images=2, timeout_s=200, **LONG)
        assert (ended.attempt, whole.attempt) == (2, 1)
        pictures = [output for output in ended.outputs if output.kind == "image"]
        assert len(pictures) == 2
        for image in pictures:
            content = client.output(job.id, image.name)
            assert content == client.output(whole.id, image.name)
            assert Image.open(io.BytesIO(content)).size == (32, 32)
            assert image.clip_score is not None
        assert len({client.output(job.id, image.name) for image in pictures}) == 2


def test_it_says_what_it_is_refuses_what_it_cannot_varies_a_image_and_is_canceled(drawing: Service) -> None:
    [told] = httpx.get(f"{drawing.url}/v1/generators").json()["data"]
    assert "not OpenAI's" in told["description"]
    assert told["model"]["name"] == "tiny-text, tiny-image"
    assert (told["defaults"]["width"], told["defaults"]["steps"]) == (32, 57)
    assert told["options"]["properties"]["prior_guidance"]["maximum"] == 20
    both = [{"text": "a fox"}, {"image": PHOTO}]
    for asked, pointer, words in (
        ({"prompt": "a cat", "options": {"prior_guidance": 21}}, "#/options/prior_guidance", "20"),
        ({"prompt": "a cat", "options": {"decoder_steps": 1}}, "#/options/decoder_steps", "2"),
        ({"prompts": both}, "#/prompts", "cannot be mixed"),
        ({"prompt": "a cat", "width": 64, "height": 32}, "#/width", "32x32"),
        ({"prompt": "a cat", "steps": 9}, "#/steps", "57 steps"),
    ):
        refused = httpx.post(f"{drawing.url}/v1/jobs", json={"generator": "unclip", **asked})
        [fault] = refused.json()["errors"]
        assert (refused.status_code, fault["pointer"]) == (422, pointer), refused.text
        assert words in fault["detail"]
    drawing.start("workers")
    with drawing.client() as client:
        fields = {"generator": "unclip", "seed": 7, "prompts": [{"image": PHOTO}]}
        made = httpx.post(f"{drawing.url}/v1/jobs", json=fields).json()
        varied = client.wait(made["id"], timeout_s=120)
        assert varied.progress
        assert varied.progress.steps == 32
        assert any(output.kind == "image" for output in varied.outputs)
        long = client.create_job("a" * 80, generator="unclip")
        failed = drawing.wait_for(long.id, lambda job: job.is_final, 120)
        assert "too long" in str(failed.error)
        job = client.create_job("a red heart", num_images=8, **LONG)
        drawing.wait_for(job.id, lambda job: bool(job.progress and job.progress.step > 10), 120)
        client.cancel(job.id)
        with pytest.raises(JobCanceled):
            client.wait(job.id, timeout_s=20)
        assert not client.job(job.id).outputs
