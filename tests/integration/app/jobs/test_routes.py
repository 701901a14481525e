"""Jobs over HTTP: made once, told truly, fetched, canceled, deleted, and only by their own key."""

import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from PIL import Image

from app.dependencies import new_key
from app.jobs.schemas import GeneratorList, JobList
from jobs.job_response import JobAnswer
from jobs.record.lease import Lease
from jobs.record.record import Frame, JobError, Output, Progress, Status
from storage.blobs import open_store
from storage.redis import connect
from tests.support.images import b64, plain, png
from tests.support.live_api import LiveApi, StartApi
from tests.support.redis_server import RedisServer

QUICK: dict[str, Any] = {"prompt": "a fox", "generator": "gradient", "width": 32, "height": 32, "steps": 4}
PNG = plain("red")


class Worker:
    """Does to jobs what a worker does, at a test's word."""

    def __init__(self, connection: redis.Redis, store: str) -> None:
        self._connection = connection
        self._store = open_store(store)

    def start(self, job_id: str) -> Lease:
        lease = Lease.start(self._connection, job_id, "w", 30)
        assert isinstance(lease, Lease)
        return lease

    def succeed(self, lease: Lease, data: bytes = PNG) -> None:
        output = Output("image-0.png", f"{lease.job_id}/a/image-0.png", "image/png", 32, 24, 7, 0.25)
        self._store.save(output.key, data)
        lease.finish(Status.SUCCEEDED, outputs=[output])


@pytest.fixture
def worker(redis_server: RedisServer, tmp_path: Path) -> Iterator[Worker]:
    with connect(redis_server.url, patience_s=1) as connection:
        yield Worker(connection, (tmp_path / "store").as_uri())


def create(api: LiveApi, **values: Any) -> dict[str, Any]:
    answer = api.http.post("/v1/jobs", json={**QUICK, **values})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_a_job_is_accepted_with_its_place_and_all_that_was_not_said(api: LiveApi) -> None:
    answer = api.http.post("/v1/jobs", json={"prompt": "a fox | blurry:-0.3", "generator": "gradient"})
    assert answer.status_code == 202
    job = JobAnswer.model_validate(answer.json())
    assert answer.headers["location"] == f"/v1/jobs/{job.id}"
    assert int(answer.headers["retry-after"]) > 0
    assert (job.status, job.seq, job.attempt, job.outputs) == ("queued", 1, 0, [])
    assert [(prompt["text"], prompt["weight"]) for prompt in job.request["prompts"]] == [
        ("a fox", 1),
        ("blurry", -0.3),
    ]
    assert 0 <= job.request["seed"] < 2**32, "a missing seed is drawn here"
    assert job.request["options"] == {"delay_s": 0.0}
    told = JobAnswer.model_validate(api.http.get(f"/v1/jobs/{job.id}").json())
    assert told.request == job.request
    assert told.queue_position == 0


def test_the_record_tells_of_a_job_from_start_to_end(api: LiveApi, worker: Worker) -> None:
    job_id = create(api, metadata={"order": "12"}, seed=5)["id"]
    lease = worker.start(job_id)
    lease.report(progress=Progress(step=1, steps=4, loss=0.5, eta_s=3.0, steps_per_s=1.0))
    running = JobAnswer.model_validate(api.http.get(f"/v1/jobs/{job_id}").json())
    assert (running.status, running.attempt, running.queue_position) == ("running", 1, None)
    assert running.progress is not None
    assert (running.progress.fraction, running.progress.loss) == (0.25, 0.5)
    worker.succeed(lease)
    ended = JobAnswer.model_validate(api.http.get(f"/v1/jobs/{job_id}").json())
    assert (ended.status, ended.metadata, ended.request["seed"]) == ("succeeded", {"order": "12"}, 5)
    assert ended.finished_at is not None
    assert ended.expires_at is not None
    assert ended.outputs[0].url == f"/v1/jobs/{job_id}/outputs/image-0.png"
    assert "key" not in ended.outputs[0].model_dump()


def test_a_failed_job_is_a_200_that_says_why(api: LiveApi, worker: Worker) -> None:
    job_id = create(api)["id"]
    worker.start(job_id).finish(Status.FAILED, error=JobError("cuda_oom", "no memory", True))
    answer = api.http.get(f"/v1/jobs/{job_id}")
    assert answer.status_code == 200
    assert answer.json()["error"] == {"code": "cuda_oom", "detail": "no memory", "retryable": True}


def test_the_etag_is_the_job_s_seq(api: LiveApi, worker: Worker) -> None:
    job_id = create(api)["id"]
    first = api.http.get(f"/v1/jobs/{job_id}")
    assert first.headers["etag"] == f'"{first.json()["seq"]}"'
    same = api.http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    worker.start(job_id)
    changed = api.http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200


def test_waiting_ends_with_the_job_or_with_the_time(api: LiveApi, worker: Worker) -> None:
    job_id = create(api)["id"]
    began = time.monotonic()
    answer = api.http.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=1"})
    assert 0.9 < time.monotonic() - began < 5
    assert answer.json()["status"] == "queued"
    assert answer.headers["preference-applied"] == "wait=1"
    timer = threading.Timer(0.5, lambda: worker.succeed(worker.start(job_id)))
    timer.start()
    began = time.monotonic()
    answer = api.http.get(f"/v1/jobs/{job_id}", headers={"Prefer": "respond-async, wait=20"})
    timer.join()
    assert answer.json()["status"] == "succeeded"
    assert time.monotonic() - began < 5
    assert (
        "preference-applied" not in api.http.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=20"}).headers
    )


def test_the_same_request_with_the_same_key_is_one_job(api: LiveApi) -> None:
    def ask(steps: int = 4, key: str = "k1") -> httpx.Response:
        body = {**QUICK, "steps": steps, "prompts": [{"image": b64(PNG)}]}
        body.pop("prompt")
        return api.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(), range(8)))
    assert [answer.status_code for answer in answers] == [202] * 8
    assert len({answer.text for answer in answers}) == 1
    assert sum(answer.headers.get("idempotent-replayed") == "true" for answer in answers) == 7
    assert len({answer.headers["location"] for answer in answers}) == 1
    other = ask(steps=5)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")
    assert ask(key='"k1"').headers["idempotent-replayed"] == "true", "quoted or not, it is the same key"
    assert len(api.http.get("/v1/jobs").json()["data"]) == 1
    bad = api.http.post("/v1/jobs", json=QUICK, headers={"Idempotency-Key": "no spaces"})
    assert (bad.status_code, bad.json()["code"]) == (400, "malformed_header")


def test_refused_and_replayed_requests_leave_no_files(start_api: StartApi, tmp_path: Path) -> None:
    api = start_api(max_queued_per_key=1)
    body = {**QUICK, "prompts": [{"image": b64(PNG)}]}
    body.pop("prompt")
    headers = {"Idempotency-Key": "k1"}
    job_id = api.http.post("/v1/jobs", json=body, headers=headers).json()["id"]
    assert api.http.post("/v1/jobs", json=body, headers=headers).status_code == 202
    assert api.http.post("/v1/jobs", json={**body, "steps": 9}, headers=headers).status_code == 422
    assert api.http.post("/v1/jobs", json=body).status_code == 429
    assert [folder.name for folder in (tmp_path / "store").iterdir()] == [job_id]


def test_prompt_pictures_are_kept_bounded_and_can_be_fetched(api: LiveApi) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "the canary in the metadata"
    large = png(Image.new("RGB", (2000, 500), "blue"), "JPEG", exif=exif)
    body = {**QUICK, "prompts": [{"text": "a fox"}, {"image": b64(large), "weight": 0.5}]}
    body.pop("prompt")
    job = api.http.post("/v1/jobs", json=body).json()
    assert job["request"]["prompts"][1] == {"image": "input-0.png", "weight": 0.5}
    answer = api.http.get(f"/v1/jobs/{job['id']}/outputs/input-0.png")
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (256, 1024)
    assert b"canary" not in answer.content


def test_options_that_take_pictures_are_kept_like_prompts(api: LiveApi) -> None:
    body = {
        "prompt": "a fox",
        "generator": "vqgan_clip",
        "options": {"init_image": f"data:image/png;base64,{b64(PNG)}"},
    }
    job = api.http.post("/v1/jobs", json=body).json()
    assert job["request"]["options"]["init_image"] == "input-0.png"
    assert api.http.get(f"/v1/jobs/{job['id']}/outputs/input-0.png").status_code == 200
    body["options"] = {"init_image": b64(PNG[:50])}
    refused = api.http.post("/v1/jobs", json=body)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "#/options/init_image")


def test_outputs_have_their_type_their_hash_and_their_parts(api: LiveApi, worker: Worker) -> None:
    job_id = create(api)["id"]
    worker.succeed(worker.start(job_id))
    path = f"/v1/jobs/{job_id}/outputs/image-0.png"
    whole = api.http.get(path)
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, PNG, "image/png")
    assert whole.headers["x-content-type-options"] == "nosniff"
    known = api.http.get(path, headers={"If-None-Match": whole.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    part = api.http.get(path, headers={"Range": "bytes=8-15"})
    assert (part.status_code, part.content) == (206, PNG[8:16])
    assert api.http.get(path, headers={"Range": "bytes=99999-"}).status_code == 416
    for name in ("image-1.png", "..%2f..%2fetc%2fpasswd", "%2e%2e", "image-0.png%00"):
        missing = api.http.get(f"/v1/jobs/{job_id}/outputs/{name}")
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")


def test_frames_are_told_and_served_while_the_job_runs(api: LiveApi, worker: Worker, tmp_path: Path) -> None:
    job_id = create(api, save={"video": "mp4"})["id"]
    store = open_store((tmp_path / "store").as_uri())
    lost = worker.start(job_id)
    store.save(f"{job_id}/{lost.token}/frames/frame-0-00001.png", PNG)
    lost.report(frame=Frame("frame-0-00001.png", image=0, frame=0, step=1))
    lost.hand_back()
    lease = worker.start(job_id)
    store.save(f"{job_id}/{lease.token}/frames/frame-0-00002.png", plain("blue"))
    lease.report(frame=Frame("frame-0-00002.png", image=0, frame=1, step=2))
    told = []
    with api.http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        for line in answer.iter_lines():
            if line.startswith("data:") and '"frame"' in line:
                told.append(json.loads(line.removeprefix("data: ")))
                if len(told) == 2:
                    break
    url = f"/v1/jobs/{job_id}/outputs/frame-0-0000{{}}.png"
    assert told == [
        {
            "name": f"frame-0-0000{step}.png",
            "url": url.format(step),
            "image": 0,
            "frame": step - 1,
            "step": step,
        }
        for step in (1, 2)
    ]
    for step, data in ((1, PNG), (2, plain("blue"))):
        answer = api.http.get(url.format(step))
        assert (answer.status_code, answer.content, answer.headers["content-type"]) == (
            200,
            data,
            "image/png",
        )
    for name in ("frame-0-00003.png", "frame-00-00001.png", "frame-0-..%2fcheckpoint", "checkpoint"):
        assert api.http.get(f"/v1/jobs/{job_id}/outputs/{name}").status_code == 404
    worker.succeed(lease)
    assert api.http.get(url.format(1)).status_code in (200, 404), "until it is tidied"
    unfilmed = create(api)["id"]
    assert api.http.get(f"/v1/jobs/{unfilmed}/outputs/frame-0-00001.png").json()["code"] == "output_not_found"


def test_cancel_answers_by_where_the_job_stands(api: LiveApi, worker: Worker) -> None:
    waiting, running, done = (create(api)["id"] for _ in range(3))
    for _ in range(2):
        answer = api.http.post(f"/v1/jobs/{waiting}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    lease = worker.start(running)
    answer = api.http.post(f"/v1/jobs/{running}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert answer.json()["cancel_requested_at"]
    assert lease.report(), "the worker hears of it"
    worker.succeed(worker.start(done))
    answer = api.http.post(f"/v1/jobs/{done}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_final")


def test_delete_forgets_a_final_job_and_its_files(api: LiveApi, worker: Worker, tmp_path: Path) -> None:
    job_id = create(api)["id"]
    answer = api.http.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_final")
    worker.succeed(worker.start(job_id))
    assert (tmp_path / "store" / job_id).exists()
    answer = api.http.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert not (tmp_path / "store" / job_id).exists()
    for path in ("", "/outputs/image-0.png", "/events"):
        assert api.http.get(f"/v1/jobs/{job_id}{path}").status_code == 404


def test_jobs_are_listed_newest_first_page_by_page(api: LiveApi, worker: Worker) -> None:
    ids = [create(api)["id"] for _ in range(5)]
    worker.succeed(worker.start(ids[0]))
    first = JobList.model_validate(api.http.get("/v1/jobs", params={"limit": 3}).json())
    assert [job.id for job in first.data] == ids[:1:-1]
    assert (first.has_more, first.last_id) == (True, ids[2])
    rest = JobList.model_validate(api.http.get("/v1/jobs", params={"limit": 3, "after": ids[2]}).json())
    assert ([job.id for job in rest.data], rest.has_more) == ([ids[1], ids[0]], False)
    done = api.http.get("/v1/jobs", params={"status": "succeeded"}).json()
    assert [job["id"] for job in done["data"]] == ids[:1]
    empty = api.http.get("/v1/jobs", params={"status": "failed"}).json()
    assert empty == {"object": "list", "data": [], "has_more": False, "last_id": None}


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "status=done", "after=x", "after=job_00000000000000000000000000"],
)
def test_a_bad_list_query_is_told(api: LiveApi, query: str) -> None:
    answer = api.http.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"query/{query.partition('=')[0]}"


def test_another_key_s_job_is_not_there(start_api: StartApi, worker: Worker) -> None:
    keys = {name: new_key(name) for name in ("ann", "bob")}
    api = start_api(api_keys=[json.loads(entry) for _, entry in keys.values()])
    ann, bob = ({"Authorization": f"Bearer {key}"} for key, _ in keys.values())
    job_id = api.http.post("/v1/jobs", json=QUICK, headers=ann).json()["id"]
    worker.succeed(worker.start(job_id))
    assert api.http.get(f"/v1/jobs/{job_id}", headers=ann).status_code == 200
    for method, path in (
        ("GET", ""),
        ("POST", "/cancel"),
        ("DELETE", ""),
        ("GET", "/events"),
        ("GET", "/outputs/image-0.png"),
    ):
        answer = api.http.request(method, f"/v1/jobs/{job_id}{path}", headers=bob)
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
        answer = api.http.request(method, f"/v1/jobs/{job_id}{path}")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert api.http.get("/v1/jobs", headers=bob).json()["data"] == []
    assert len(api.http.get("/v1/jobs", headers=ann).json()["data"]) == 1


def test_a_key_may_do_what_its_scopes_say(start_api: StartApi) -> None:
    key, entry = new_key("looker")
    api = start_api(api_keys=[{**json.loads(entry), "scopes": ["clip"]}]).ready()
    headers = {"Authorization": f"Bearer {key}"}
    assert api.http.post("/v1/embeddings", json={"input": "a fox"}, headers=headers).status_code == 200
    answer = api.http.post("/v1/jobs", json=QUICK, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")
    for path in ("/v1/models", "/v1/queue", "/v1/generators"):
        assert api.http.get(path, headers=headers).status_code == 200
        assert api.http.get(path).status_code == 401
    for path in ("/livez", "/readyz", "/metrics", "/docs"):
        assert api.http.get(path).status_code == 200


def test_generators_tell_their_options_defaults_and_limits(api: LiveApi) -> None:
    said = GeneratorList.model_validate(api.http.get("/v1/generators").json())
    assert {"gradient", "pixels", "vqgan_clip"} <= {generator.name for generator in said.data}
    for generator in said.data:
        assert generator.description
        assert set(generator.defaults["options"]) == set(generator.options["properties"])
        body = {"prompt": "a fox", "generator": generator.name, **generator.defaults}
        assert api.http.post("/v1/jobs", json=body).status_code == 202, "its defaults are what it takes"


def test_the_queue_is_counted(api: LiveApi, worker: Worker) -> None:
    ids = [create(api)["id"] for _ in range(3)]
    worker.start(ids[0])
    assert api.http.get("/v1/queue").json() == {"queued": 2, "running": 1, "workers": []}
    assert 'clipcanvas_jobs{state="queued"} 2.0' in api.http.get("/metrics").text
