"""The official OpenAI client draws here as it is: waiting, streaming, retrying, and hanging up."""

import asyncio
import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from app.dependencies import new_key
from tests.support.redis_server import RedisServer, private_redis
from tests.support.service import Service

pytestmark = pytest.mark.timeout(400)

QUICK: dict[str, Any] = {
    "prompt": "a fox: red | blue:2",
    "model": "gradient",
    "size": "64x48",
    "extra_body": {"steps": 4, "seed": 7},
}
SLOW: dict[str, Any] = {
    "prompt": "a fox",
    "model": "gradient",
    "size": "64x48",
    "extra_body": {"steps": 60, "options": {"delay_s": 0.05}},
}
LONG = {**SLOW, "extra_body": {"steps": 400, "options": {"delay_s": 0.05}}}


@pytest.fixture(scope="module")
def drawing(redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The API and a worker."""
    service = Service(redis_process, tmp_path_factory.mktemp("service"))
    try:
        service.start("app")
        service.worker('["gradient", "pixels"]')
        service.wait_until(lambda: has_worker(service), 300)
        yield service
    finally:
        service.stop()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """One that the worker of `drawing` does not look at."""
    with private_redis() as server:
        yield server


@pytest.fixture
def client(drawing: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{drawing.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def has_worker(service: Service) -> bool:
    answer = httpx.get(f"{service.url}/v1/queue")
    return answer.status_code == 200 and any(worker["state"] == "idle" for worker in answer.json()["workers"])


def opened(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def jobs(service: Service) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = httpx.get(f"{service.url}/v1/jobs").json()["data"]
    return data


def new_job(service: Service, earlier: set[str]) -> str:
    service.wait_until(lambda: any(job["id"] not in earlier for job in jobs(service)))
    return str(jobs(service)[0]["id"])


def rgba(size: tuple[int, int], alpha: int) -> Image.Image:
    return Image.new("RGBA", size, (0, 0, 0, alpha))


def png(picture: Image.Image) -> tuple[str, bytes, str]:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "image.png", file.getvalue(), "image/png"


def test_it_draws_and_brings_the_images_along(drawing: Service, client: openai.OpenAI) -> None:
    answer = client.images.generate(**QUICK, n=2, user="ann", quality="high")
    assert answer.created > 1_700_000_000
    assert answer.data is not None
    assert [opened(item.b64_json).size for item in answer.data] == [(64, 48)] * 2
    assert [item.url for item in answer.data] == [None, None]
    assert (answer.size, answer.output_format, answer.background) == ("64x48", "png", "opaque")
    job = jobs(drawing)[0]
    assert job["id"] == answer.model_extra["job_id"]  # type: ignore[index]
    assert job["metadata"] == {"user": "ann"}
    assert [(prompt["text"], prompt["weight"]) for prompt in job["request"]["prompts"]] == [
        ("a fox: red | blue:2", 1.0)
    ], "a prompt of OpenAI's has no syntax"


def test_it_draws_and_says_where_the_images_are(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        **QUICK, response_format="url", output_format="jpeg", output_compression=50
    )
    assert answer.data is not None
    [item] = answer.data
    assert item.b64_json is None
    picture = httpx.get(item.url or "")
    assert picture.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(picture.content)).size == (64, 48)


async def test_its_asynchronous_client_draws_side_by_side(drawing: Service) -> None:
    async with openai.AsyncOpenAI(base_url=f"{drawing.url}/v1", api_key="any", max_retries=0) as client:
        answers = await asyncio.gather(*(client.images.generate(**QUICK) for _ in range(3)))
        assert {opened(answer.data[0].b64_json).tobytes() for answer in answers if answer.data} == {
            opened(answers[0].data[0].b64_json).tobytes()  # type: ignore[index]
        }, "the same seed, the same image"
        events = [event async for event in await client.images.generate(**QUICK, stream=True)]
        assert [event.type for event in events] == ["image_generation.completed"]


def test_it_shows_a_image_as_it_forms(client: openai.OpenAI) -> None:
    with client.images.generate(**SLOW, stream=True, partial_images=2, quality="low") as stream:
        events = list(stream)
    partial, completed = events[:-1], events[-1]
    assert [event.type for event in partial] == ["image_generation.partial_image"] * 2
    assert [event.partial_image_index for event in partial] == [0, 1]  # type: ignore[union-attr]
    assert [event.output_format for event in partial] == ["jpeg", "jpeg"]
    contrasts = [np.asarray(opened(event.b64_json), np.float32).std() for event in events]
    assert contrasts == sorted(contrasts), "each is nearer to the image, which rises out of gray"
    assert completed.type == "image_generation.completed"
    assert (completed.output_format, completed.size, completed.quality) == ("png", "64x48", "low")
    assert completed.usage.total_tokens == 0


async def test_a_client_that_hangs_up_cancels_its_job(drawing: Service) -> None:
    earlier = {job["id"] for job in jobs(drawing)}
    async with openai.AsyncOpenAI(base_url=f"{drawing.url}/v1", api_key="any", max_retries=0) as client:
        asking = asyncio.create_task(client.images.generate(**LONG))
        job_id = await asyncio.to_thread(new_job, drawing, earlier)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await asyncio.to_thread(drawing.wait_for, job_id, lambda job: job.status == "canceled")


def test_a_client_that_leaves_its_stream_cancels_its_job(drawing: Service, client: openai.OpenAI) -> None:
    with client.images.generate(**LONG, stream=True, partial_images=3) as stream:
        next(iter(stream))
    drawing.wait_for(jobs(drawing)[0]["id"], lambda job: job.status == "canceled")


def test_a_stream_says_when_its_job_was_canceled(drawing: Service, client: openai.OpenAI) -> None:
    with client.images.generate(**LONG, stream=True, partial_images=3) as stream:
        events = iter(stream)
        next(events)
        httpx.post(f"{drawing.url}/v1/jobs/{jobs(drawing)[0]['id']}/cancel")
        with pytest.raises(openai.APIError, match="canceled") as told:
            list(events)
    assert told.value.code == "job_canceled"
    assert told.value.type == "invalid_request_error"


def test_a_key_makes_one_job_of_all_its_requests(drawing: Service, client: openai.OpenAI) -> None:
    keyed: Any = {**QUICK, "extra_headers": {"Idempotency-Key": "order-17"}}
    first = client.images.generate(**keyed)
    count = len(jobs(drawing))
    again = client.images.generate(**keyed, response_format="url")
    assert again.model_extra["job_id"] == first.model_extra["job_id"]  # type: ignore[index]
    [event] = client.images.generate(**keyed, stream=True, partial_images=3)
    assert event.b64_json == first.data[0].b64_json  # type: ignore[index]
    assert len(jobs(drawing)) == count
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.images.generate(**{**keyed, "prompt": "a hen"})
    assert refused.value.code == "idempotency_conflict"
    with pytest.raises(openai.BadRequestError) as refused_key:
        client.images.generate(**{**keyed, "extra_headers": {"Idempotency-Key": "two words"}})
    assert refused_key.value.code == "malformed_header"
    edit: Any = {"prompt": "a fox", "model": "pixels", "size": "64x64", "extra_body": {"steps": 2}}
    edit |= {"image": png(Image.new("RGB", (64, 64))), "extra_headers": {"Idempotency-Key": "order-18"}}
    drawn = [client.images.edit(**edit).model_extra["job_id"] for _ in range(2)]  # type: ignore[index]
    assert drawn[0] == drawn[1]


def test_a_client_with_a_key_comes_back_to_its_job(drawing: Service, client: openai.OpenAI) -> None:
    earlier = {job["id"] for job in jobs(drawing)}
    patient = client.with_options(timeout=1, max_retries=20)  # the drawing takes 3 s
    answer = patient.images.generate(**SLOW, extra_headers={"Idempotency-Key": "order-19"})
    assert answer.data is not None
    assert opened(answer.data[0].b64_json).size == (64, 48)
    [job] = [job for job in jobs(drawing) if job["id"] not in earlier]
    assert (job["status"], job["attempt"]) == ("succeeded", 1)


def test_it_draws_where_a_mask_is_transparent(client: openai.OpenAI) -> None:
    picture = Image.new("RGB", (96, 64), "teal")
    mask = rgba((96, 64), 255)
    mask.paste(rgba((48, 64), 0), (48, 0))
    answer = client.images.edit(
        image=png(picture),
        mask=png(mask),
        prompt="a red heart",
        model="pixels",
        extra_body={"steps": 3, "seed": 1, "options": {"mask_feather": 0}},
    )
    assert answer.data is not None
    drawn = opened(answer.data[0].b64_json).convert("RGB")
    assert drawn.width / drawn.height == pytest.approx(1.5, rel=0.1), "without a size the shape is kept"
    kept = np.asarray(drawn)[:, : drawn.width // 2 - 8].reshape(-1, 3)
    assert np.unique(kept, axis=0).tolist() == [[0, 128, 128]]
    assert np.asarray(drawn)[:, drawn.width // 2 + 8 :].std() > 3


def test_edits_are_streamed(client: openai.OpenAI) -> None:
    with client.images.edit(
        image=[png(Image.new("RGB", (64, 64), "teal"))],
        prompt="a red heart",
        model="pixels",
        size="64x64",
        extra_body={"steps": 2},
        stream=True,
    ) as stream:
        assert [event.type for event in stream] == ["image_edit.completed"]


@pytest.mark.parametrize(
    ("kind", "values", "param", "words"),
    [
        (openai.UnprocessableEntityError, {"prompt": ""}, "prompt", "at least 1"),
        (openai.UnprocessableEntityError, {"prompt": "a" * 1001}, "prompt", "at most 1000"),
        (openai.UnprocessableEntityError, {"size": "1x1"}, "size", "match pattern"),
        (openai.UnprocessableEntityError, {"size": "12x64"}, "size", "greater than or equal to 16"),
        (openai.UnprocessableEntityError, {"size": "100x100", "model": "vqgan_clip"}, "size", "multiples"),
        (openai.UnprocessableEntityError, {"n": 17}, "n", "less than or equal to 16"),
        (openai.UnprocessableEntityError, {"output_format": "svg"}, "output_format", "png"),
        (openai.UnprocessableEntityError, {"background": "transparent"}, "background", "opaque"),
        (openai.UnprocessableEntityError, {"style": "vivid"}, "style", "not known"),
        (openai.UnprocessableEntityError, {"output_compression": 9}, "output_compression", "jpeg"),
        (openai.UnprocessableEntityError, {"partial_images": 1}, "partial_images", "stream"),
        (openai.UnprocessableEntityError, {"stream": True, "n": 2}, "n", "one image"),
        (openai.NotFoundError, {"model": "gpt-image-2"}, None, "no model 'gpt-image-2' draws here"),
    ],
)
def test_what_it_cannot_have_is_told_in_its_words(
    client: openai.OpenAI, kind: type[openai.APIStatusError], values: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(kind, match=words) as refused:
        client.images.generate(**{**QUICK, **values})
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert refused.value.response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("values", "param", "words"),
    [
        ({"mask": png(rgba((32, 32), 0))}, "mask", "as large"),
        ({"mask": png(rgba((64, 64), 255))}, "mask", "nothing to draw"),
        ({"mask": png(Image.new("RGB", (64, 64)))}, "mask", "nothing to draw"),
        ({"mask": b"no image"}, "mask", "known format"),
        ({"image": b"no image"}, "image", "known format"),
        ({"image": [png(rgba((64, 64), 0)), png(rgba((64, 64), 0))]}, "image", "repeated"),
        ({"model": "gradient"}, "model", "cannot draw over"),
        ({"markup": png(rgba((64, 64), 0))}, "markup", "not known"),
    ],
)
def test_what_an_edit_cannot_have_is_told(
    client: openai.OpenAI, values: dict[str, Any], param: str, words: str
) -> None:
    asked = {"image": png(Image.new("RGB", (64, 64))), "prompt": "a fox", "model": "pixels"}
    with pytest.raises(openai.APIStatusError, match=words) as refused:
        client.images.edit(**{**asked, **values})
    assert refused.value.status_code == (415 if "format" in words else 422)
    assert refused.value.param == param


def test_what_takes_longer_is_a_job(own_redis: RedisServer, tmp_path: Path) -> None:
    service = Service(own_redis, tmp_path)
    try:
        service.start("app", CLIPCANVAS_IMAGES_WAIT_S="0.3")  # and no worker
        service.wait_until(service.alive)
        with openai.OpenAI(base_url=f"{service.url}/v1", api_key="any", max_retries=0) as client:
            raw = client.images.with_raw_response.generate(**QUICK)
            assert raw.status_code == 202
            job = httpx.get(f"{service.url}{raw.headers['location']}").json()
            assert job["status"] == "queued", "it was not canceled"
            with (
                client.images.generate(**QUICK, stream=True) as stream,
                pytest.raises(openai.APIError, match="/v1/jobs/job_") as told,
            ):
                list(stream)
            assert told.value.code == "still_drawing"
    finally:
        service.stop()


def test_it_tries_again_when_there_is_room(own_redis: RedisServer, tmp_path: Path) -> None:
    service = Service(own_redis, tmp_path)
    key, entry = new_key("shop")
    try:
        service.start("app", CLIPCANVAS_MAX_QUEUED_PER_KEY="1", CLIPCANVAS_API_KEYS=f"[{entry}]")
        service.wait_until(service.alive)
        headers = {"Authorization": f"Bearer {key}"}
        body = {"prompt": "a fox", "generator": "gradient"}
        waiting = httpx.post(f"{service.url}/v1/jobs", json=body, headers=headers).json()["id"]
        with openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0) as client:
            with pytest.raises(openai.RateLimitError) as refused:
                client.images.generate(**QUICK)
            assert refused.value.code == "too_many_jobs"
            assert refused.value.type == "rate_limit_error"
            assert refused.value.response.headers["x-should-retry"] == "true"
            assert int(refused.value.response.headers["retry-after"]) > 0
            cancel = threading.Timer(
                1, lambda: httpx.post(f"{service.url}/v1/jobs/{waiting}/cancel", headers=headers)
            )
            service.worker()
            cancel.start()
            answer = client.with_options(max_retries=3).images.generate(**QUICK)
            cancel.join()
            assert opened(answer.data[0].b64_json).size == (64, 48)  # type: ignore[index]
    finally:
        service.stop()


def test_models_are_listed_as_openai_lists_them(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("demo-photo", "model", "clipcanvas")
    assert model.created > 1_700_000_000
    assert client.models.retrieve("demo-photo") == model
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("gpt-image-2")
    assert missing.value.code == "model_not_found"


def test_its_errors_are_problems_as_well(drawing: Service) -> None:
    answer = httpx.post(f"{drawing.url}/v1/images/generations", json={"prompt": 3})
    told = json.loads(answer.text)
    assert (answer.status_code, told["code"], told["errors"][0]["pointer"]) == (
        422,
        "invalid_request",
        "#/prompt",
    )
    assert told["error"] == {
        "message": told["detail"],
        "type": "invalid_request_error",
        "code": "invalid_request",
        "param": "prompt",
    }
    assert answer.headers["x-should-retry"] == "false"
