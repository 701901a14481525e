"""The client sends what the contract asks for, in whatever form the caller holds it."""

import base64
import inspect
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import clipcanvas
from clipcanvas import AsyncClient, Client, Prompt
from clipcanvas.client import endpoints
from tests.support.contract_server import DONE, JOB
from tests.unit.clipcanvas.conftest import Serve


def test_an_image_is_the_same_as_path_text_or_bytes(tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"image")
    expected = base64.b64encode(b"image").decode()
    assert [endpoints.encode_image(image) for image in (path, str(path), b"image")] == [expected] * 3


def test_a_pil_image_is_sent_without_loss() -> None:
    image = Image.new("RGB", (3, 2), (10, 20, 30))
    sent = Image.open(BytesIO(base64.b64decode(endpoints.encode_image(image))))
    assert (sent.size, sent.getpixel((0, 0))) == ((3, 2), (10, 20, 30))


@pytest.mark.parametrize("url", ["https://example.org/cat.jpg", "data:image/png;base64,AAAA"])
def test_a_url_is_sent_as_it_is(url: str) -> None:
    assert endpoints.encode_image(url) == url


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(TypeError, match="not int"):
        endpoints.encode_image(7)


def test_texts_and_images_may_be_mixed() -> None:
    call = endpoints.embed(["a cat", b"x"], dimensions=8)
    assert call.json["input"] == [{"text": "a cat"}, {"image": "eA=="}]
    assert call.json["dimensions"] == 8


def test_only_what_the_caller_said_is_sent() -> None:
    assert endpoints.create_job("a fox").json == {"prompt": "a fox"}
    prompts = [Prompt(text="a fox", weight=0.5), Prompt(image=b"x")]
    assert endpoints.create_job(prompts, seed=0).json == {
        "prompts": [{"text": "a fox", "weight": 0.5}, {"image": "eA=="}],
        "seed": 0,
    }


def test_waiting_is_asked_for_and_given_time() -> None:
    call = endpoints.job("job_1", wait_s=0.2)
    assert call.headers == {"Prefer": "wait=1"}
    assert endpoints.job("job_1", wait_s=500).headers == {"Prefer": "wait=60"}
    assert endpoints.job("job_1", wait_s=500).read_timeout_s > 60


def test_an_id_cannot_leave_its_place_in_the_path() -> None:
    assert endpoints.output("../x", "a/b?c").path == "/v1/jobs/..%2Fx/outputs/a%2Fb%3Fc"


class Pages:
    """Three pages of jobs."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.app = Starlette(routes=[Route("/v1/jobs", self.page)])

    async def page(self, request: Request) -> Response:
        self.asked.append(dict(request.query_params))
        number = int(request.query_params.get("after", "0"))
        data = [JOB | {"id": str(number + 1)}]
        return JSONResponse({"data": data, "has_more": number < 2, "last_id": str(number + 1)})


async def test_every_job_comes_from_as_many_pages_as_there_are(serve: Serve) -> None:
    pages = Pages()
    url = serve(pages.app)
    with Client(url) as client:
        assert [job.id for job in client.every_job(status="queued")] == ["1", "2", "3"]
    async with AsyncClient(url) as other:
        assert [job.id async for job in other.every_job()] == ["1", "2", "3"]
    assert pages.asked[1] == {"limit": "100", "status": "queued", "after": "1"}


async def test_drawing_creates_a_job_waits_for_it_and_saves_its_image(serve: Serve, tmp_path: Path) -> None:
    async def create(request: Request) -> Response:
        return JSONResponse(JOB, 202)

    async def show(request: Request) -> Response:
        return JSONResponse(DONE)

    async def image(request: Request) -> Response:
        return Response(b"image", media_type="image/png")

    routes = [
        Route("/v1/jobs", create, methods=["POST"]),
        Route("/v1/jobs/job_1", show),
        Route("/v1/jobs/job_1/outputs/image-0.png", image),
    ]
    url = serve(Starlette(routes=routes))
    with Client(url) as client:
        job = client.draw("a fox", seed=7)
        assert client.save(job, tmp_path / "fox.png").read_bytes() == b"image"
    async with AsyncClient(url) as other:
        job = await other.draw("a fox")
        assert (await other.save(job, tmp_path / "other.png")).read_bytes() == b"image"
    assert sorted(os.listdir(tmp_path)) == ["fox.png", "other.png"]


def test_fields_of_a_newer_service_are_kept() -> None:
    job = clipcanvas.Job.model_validate(JOB | {"node": "gpu-7"})
    assert job.model_dump()["node"] == "gpu-7"


def public_methods(kind: type) -> dict[str, list[str]]:
    return {
        name: list(inspect.signature(member).parameters)
        for name, member in inspect.getmembers(kind, callable)
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_methods() -> None:
    assert public_methods(Client) == public_methods(AsyncClient)


def test_every_public_name_is_there() -> None:
    names: list[Any] = [getattr(clipcanvas, name) for name in clipcanvas.__all__]
    assert all(isinstance(name, type) for name in names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = clipcanvas.nothing  # type: ignore[attr-defined]


def test_importing_the_package_costs_next_to_nothing() -> None:
    code = "import clipcanvas, sys; assert not {'httpx', 'pydantic', 'typer'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
