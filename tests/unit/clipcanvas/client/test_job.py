"""A job from a client knows that client: it can be waited for, followed, looked at, saved and stopped."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from clipcanvas import AsyncClient, Client, Job, JobFailed, WaitTimeout
from tests.support.contract_server import DONE, JOB
from tests.unit.clipcanvas.conftest import Serve

FAILED = DONE | {"status": "failed", "error": {"code": "diverged", "detail": "the loss is not finite"}}


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (200, 10, 10)).save(file, "PNG")
    return file.getvalue()


class Service:
    """One job, which is final when it is looked at for the second time."""

    def __init__(self, final: dict[str, object] = DONE) -> None:
        self.final = final
        self.asked: list[str] = []
        job = "/v1/jobs/job_1"
        self.app = Starlette(
            routes=[
                Route("/v1/jobs", self.create, methods=["POST"]),
                Route("/v1/jobs", self.list),
                Route(job, self.show),
                Route(job, self.delete, methods=["DELETE"]),
                Route(f"{job}/cancel", self.cancel, methods=["POST"]),
                Route(f"{job}/events", self.events),
                Route(f"{job}/outputs/image-0.png", self.output),
            ]
        )

    async def create(self, request: Request) -> Response:
        return JSONResponse(JOB, 202)

    async def list(self, request: Request) -> Response:
        return JSONResponse({"data": [DONE], "has_more": False, "last_id": "job_1"})

    async def show(self, request: Request) -> Response:
        self.asked.append(f"show {request.headers.get('prefer', 'now')}")
        return JSONResponse(self.final if len(self.asked) > 1 else JOB)

    async def delete(self, request: Request) -> Response:
        self.asked.append("delete")
        return Response(status_code=204)

    async def cancel(self, request: Request) -> Response:
        self.asked.append("cancel")
        return JSONResponse(JOB | {"status": "canceled"})

    async def events(self, request: Request) -> Response:
        last = request.headers.get("last-event-id", "0")
        blocks = [
            'id: 1\nevent: status\ndata: {"status": "running"}\n\n',
            f"id: 2\nevent: completed\ndata: {json.dumps(self.final)}\n\n",
        ]
        return StreamingResponse(iter(blocks[int(last) :]), media_type="text/event-stream")

    async def output(self, request: Request) -> Response:
        return Response(png(), media_type="image/png")


def test_a_job_is_followed_waited_for_and_looked_at(serve: Serve, tmp_path: Path) -> None:
    service = Service()
    with Client(serve(service.app)) as client:
        job = client.create_job("a fox")
        assert [event.type for event in job.events()] == ["status", "completed"]
        assert [event.type for event in job.events(after="1")] == ["completed"]
        done = job.wait()
        assert (job.status, done.status, done.is_final) == ("queued", "succeeded", True)
        image = done.image()
        assert (image.size, image.getpixel((0, 0))) == ((3, 2), (200, 10, 10))
        assert done.save(tmp_path / "fox.png").read_bytes() == png()
        assert job.refresh().status == "succeeded"
        done.delete()
        assert service.asked == ["show wait=60", "show wait=60", "show now", "delete"]
        assert job.cancel().status == "canceled"
        assert [other.image().size for other in client.every_job()] == [(3, 2)]


async def test_likewise_for_asyncio(serve: Serve, tmp_path: Path) -> None:
    service = Service()
    async with AsyncClient(serve(service.app)) as client:
        job = await client.create_job("a fox")
        assert [event.type async for event in job.events()] == ["status", "completed"]
        done = await job.wait()
        assert done.status == "succeeded"
        assert (await done.image()).size == (3, 2)
        assert (await done.save(tmp_path / "fox.png")).read_bytes() == png()
        assert (await job.refresh()).status == "succeeded"
        await done.delete()
        assert service.asked == ["show wait=60", "show wait=60", "show now", "delete"]
        assert (await job.cancel()).status == "canceled"
        assert [(await other.image()).size async for other in client.every_job()] == [(3, 2)]


async def test_a_image_that_is_not_there_yet_is_waited_for(serve: Serve, tmp_path: Path) -> None:
    service = Service()
    url = serve(service.app)
    with Client(url) as client:
        assert client.create_job("a fox").image().size == (3, 2)
    assert service.asked == ["show wait=60", "show wait=60"]
    async with AsyncClient(url) as other:
        job = await other.create_job("a fox")
        assert (await job.image()).size == (3, 2)
        assert (await job.save(tmp_path / "fox.png")).read_bytes() == png()


def test_how_a_job_ended_badly_is_told_by_whatever_needs_its_image(serve: Serve, tmp_path: Path) -> None:
    with Client(serve(Service(FAILED).app)) as client:
        job = client.create_job("a fox")
        with pytest.raises(JobFailed, match="the loss is not finite"):
            job.image()
        with pytest.raises(JobFailed, match="the loss is not finite"):
            job.save(tmp_path / "fox.png")
    assert list(tmp_path.iterdir()) == []


def test_waiting_for_a_image_ends_in_time(serve: Serve) -> None:
    with Client(serve(Service(JOB).app)) as client, pytest.raises(WaitTimeout, match="still queued"):
        client.create_job("a fox").image(timeout_s=0)


def test_a_image_that_a_job_has_not_is_named(serve: Serve) -> None:
    with Client(serve(Service().app)) as client, pytest.raises(IndexError, match=r"no image 1: .* has 1"):
        client.create_job("a fox").image(1)


def test_a_job_is_its_fields_whoever_knows_it(serve: Serve) -> None:
    async def newer(request: Request) -> Response:
        return JSONResponse(DONE | {"node": "gpu-7"})

    with Client(serve(Starlette(routes=[Route("/v1/jobs/job_1", newer)]))) as client:
        job = client.job("job_1")
    assert isinstance(job, Job)
    assert job.model_dump() == Job.model_validate(DONE | {"node": "gpu-7"}).model_dump()
