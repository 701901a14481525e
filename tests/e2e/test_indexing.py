"""A job that indexes outlives the processes around it: nothing is added twice, nothing is missing."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from clipcanvas import Job
from tests.support.redis_server import RedisServer
from tests.support.service import LOADED, Service

pytestmark = pytest.mark.timeout(500)

IMAGES = 120


@pytest.fixture
def service(redis_server: RedisServer, tmp_path: Path) -> Iterator[Service]:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(IMAGES):
        Image.new("RGB", (64, 64), f"hsl({index * 2}, 80%, 50%)").save(photos / f"{index:03d}.png")
    (photos / "broken.png").write_bytes(b"broken")
    service = Service(
        redis_server, tmp_path, **LOADED, CLIPCANVAS_INDEX_ROOTS=json.dumps({"photos": str(photos)})
    )
    service.start("workers", "janitor")
    yield service
    service.stop()


def began(job: Job) -> bool:
    return job.progress is not None and job.progress.step > 0


def test_a_job_goes_on_after_its_worker_and_the_api_were_killed(service: Service) -> None:
    api, worker = service.start("app"), service.start("workers", "indexer")
    with httpx.Client(base_url=service.url, timeout=30) as http:
        service.wait_until(lambda: http.get("/readyz").status_code == 200, 200)
        assert http.put("/v1/collections/all").status_code == 201
        body = {"type": "index", "collection": "all", "folder": "photos"}
        job_id = http.post("/v1/jobs", json=body).json()["id"]
        service.wait_for(job_id, began, 200)
        worker.kill()
        api.kill()
        api.wait(10)
        service.start("app")
        service.start("workers", "indexer")
        service.wait_until(service.alive, 60)
        job = service.wait_for(job_id, lambda job: job.is_final, 200)
        assert (job.status, job.attempt) == ("succeeded", 2)
        assert job.progress
        counts = job.progress.counts or {}
        assert counts["refused"] == 1
        assert counts["added"] + counts["known"] == IMAGES, "those of the time since the checkpoint are known"
        images = http.get("/v1/collections/all/images", params={"limit": 1000}).json()["data"]
        assert [image["id"] for image in images] == [f"photos/{index:03d}.png" for index in range(IMAGES)]
        assert http.get("/v1/collections/all").json()["count"] == IMAGES
