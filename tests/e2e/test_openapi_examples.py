"""The examples of the OpenAPI document are true: its requests are sent, and its answers are what comes back.

`CLIPCANVAS_RECORD=1` writes the answers anew, into `app/openapi_answers.json`.
"""

import base64
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

from app.http.body import LINES
from app.site.openapi_examples import ANSWERS, JOB
from tests.support.redis_server import RedisServer, private_redis
from tests.support.service import LOADED, Service

pytestmark = pytest.mark.timeout(600)

DELIVERY = f"{JOB.replace('job', 'msg')}_41"
JSON, FORM, EVENTS = "application/json", "multipart/form-data", "text/event-stream"
TOLD = {JSON, LINES, EVENTS, "text/plain"}  # answers in other types are bytes
# these differ from call to call: that they are there is all that is looked at
PASSING = re.compile(
    r"created|\w+_at|seq|progress|pid|since|memory|device|attempts|response_status|error"
    r"|\w*[vV]ectors?|embedding|clip|b64_json"
)
NOT_YET = {"status", "attempt", "queue_position"}  # of a job that is not final
WEBHOOK = {"url": "https://example.com/hook", "events": ["job.succeeded"]}  # none is sent


class Walk:
    """Sends the examples of a document to the service, and keeps what it says."""

    def __init__(self, service: Service) -> None:
        self.http = httpx.Client(base_url=service.url, timeout=60)
        self.document = self.http.get("/openapi.json").json()
        self.operations = {
            operation["operationId"]: (method, path, operation)
            for path, operations in self.document["paths"].items()
            for method, operation in operations.items()
        }
        self.known: dict[str, str] = {}  # what stands for what is written in the examples
        self.answers: dict[str, dict[str, dict[str, Any]]] = {}
        image = self.operations["edit_image"][2]["requestBody"]["content"][JSON]["example"]["image"]
        self._files = {"cat.jpg": base64.b64decode(image.partition(",")[2])}
        mask = io.BytesIO()
        Image.new("RGBA", Image.open(io.BytesIO(self._files["cat.jpg"])).size).save(mask, "PNG")
        self._files["mask.png"] = mask.getvalue()

    def send(
        self, name: str, status: int, kind: str = "", *, also: dict[str, Any] | None = None, **headers: str
    ) -> httpx.Response:
        """Send the example of an operation, in that content type; what came back.

        Args:
            also: fields that the example has not.
        """
        method, path, operation = self.operations[name]
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                value = self._here(str(parameter["example"]))
                path = path.replace(f"{{{parameter['name']}}}", quote(value, safe=""))
        content = operation.get("requestBody", {}).get("content", {})
        body: dict[str, Any] = {}
        if content:
            example = content[kind or JSON]["example"]
            if kind == FORM:
                body = self._form(example)
            elif kind == LINES:
                body = {"content": example}
                headers["content-type"] = LINES
            else:
                body = {"json": example | (also or {})}
        answer = self.http.request(method, path, headers=headers, **body)
        assert answer.status_code == status, f"{name}: {answer.status_code} {answer.text}"
        told = answer.headers.get("content-type", "").partition(";")[0]
        if told in TOLD and answer.content:
            kept = self.answers.setdefault(name, {}).setdefault(str(status), {})
            kept.setdefault(told, shown(name, told, answer))
        return answer

    def _form(self, example: dict[str, Any]) -> dict[str, Any]:
        parts: list[tuple[str, Any]] = []
        for name, values in example.items():
            for value in values if isinstance(values, list) else [values]:
                file = self._files.get(str(value))
                parts.append((name, (value, file) if file else (None, str(value))))
        return {"files": parts}

    def _here(self, text: str) -> str:
        for written, meant in self.known.items():
            text = text.replace(written, meant)
        return text


def shown(name: str, kind: str, answer: httpx.Response) -> Any:
    """What an example shows of an answer: the ids of the other examples, and nothing at length."""
    text = re.sub(r"(job|msg)_[0-9a-z]{26}(_\d+)?", _id, answer.text)
    text = re.sub(r"([A-Za-z0-9+/]{24})[A-Za-z0-9+/=]{200,}", r"\1", text)  # base64
    text = re.sub(r"(\[(?:-?\d\.[-e\d]+, ?){2}-?\d\.[-e\d]+)(?:, ?-?\d\.[-e\d]+){9,}", r"\1", text)  # vectors
    if kind == EVENTS:
        events = {re.findall("^event: .+", event, re.MULTILINE)[0]: event for event in _events(text)}
        return "".join(events.values())
    if name == "metrics":
        return "".join(re.findall(r"^.*clipcanvas_redis_up.*\n", text, re.MULTILINE))
    if name == "list_generators":  # one is as good as all
        return {"data": [each for each in json.loads(text)["data"] if each["name"] == "gradient"]}
    if name == "show_queue":  # no name of this machine
        [worker] = json.loads(text)["workers"]
        return json.loads(text) | {"workers": [worker | {"name": "atelier-17-bf13d9", "host": "atelier"}]}
    return json.loads(text) if kind == JSON else text


def _id(found: re.Match[str]) -> str:
    return JOB if found[1] == "job" else DELIVERY


def _events(stream: str) -> list[str]:
    """Those that are no pings, the last one first."""
    return [f"{event}\n\n" for event in stream.split("\n\n")[::-1] if "event: " in event]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    with private_redis() as redis:  # lists are of what the examples made
        yield from walk_on(redis, tmp_path_factory.mktemp("service"))


def walk_on(redis: RedisServer, folder: Path) -> Iterator[Walk]:
    service = Service(
        redis,
        folder,
        **LOADED,
        CLIPCANVAS_IMAGES_WAIT_S="0.1",
        CLIPCANVAS_COMPAT='["weaviate", "immich"]',
        CLIPCANVAS_GENERATORS='["gradient", "vqgan_clip", "pixels"]',
        CLIPCANVAS_WEBHOOK_SECRETS='["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]',
    )
    try:
        service.start("app")
        service.start("workers")
        service.wait_until(lambda: httpx.get(f"{service.url}/readyz").status_code == 200, 120)
        walk = Walk(service)
        service.wait_until(lambda: walk.http.get("/v1/queue").json()["workers"], 120)
        with closing(walk.http):
            take(walk, service)
            yield walk
    finally:
        service.stop()


def take(walk: Walk, service: Service) -> None:
    """Ask for everything once, in an order that has an answer."""
    for name in ("livez", "readyz", "list_models", "show_model", "list_generators", "ping", "metrics"):
        walk.send(name, 200)
    walk.send("show_weaviate_live", 204)
    walk.send("show_weaviate_ready", 204)
    walk.send("show_weaviate_meta", 200)
    walk.send("vectorize", 200)
    walk.send("predict", 200, FORM)
    for kind in (JSON, FORM):
        walk.send("classify", 200, kind)
    for kind in (JSON, FORM, LINES):
        walk.send("create_embeddings", 200, kind)
    walk.send("rank", 200)
    take_collections(walk)
    take_jobs(walk, service)
    for kind in ("generate_images", "edit_image"):
        job_id = walk.send(kind, 202, **{"Idempotency-Key": kind}).json()["id"]
        assert service.wait_for(job_id, lambda job: job.is_final, 120).status == "succeeded"
        walk.send(kind, 200, **{"Idempotency-Key": kind})
        walk.send(kind, 200, also={"stream": True}, **{"Idempotency-Key": kind})
    walk.send("edit_image", 202, FORM)


def take_collections(walk: Walk) -> None:
    walk.send("create_collection", 201)
    walk.send("create_collection", 200)
    for kind in (JSON, FORM):
        walk.send("add_images", 200, kind)
        walk.send("search_images", 200, kind)
    for name in ("list_images", "show_image", "fetch_thumbnail", "describe_image", "classify_images"):
        walk.send(name, 200)
    for name in ("list_duplicates", "export_collection", "list_collections", "show_collection"):
        walk.send(name, 200)
    assert walk.http.put("/v1/collections/pets-2").status_code == 201
    walk.send("reindex_collection", 200)
    walk.send("delete_image", 204)
    walk.send("delete_collection", 204)


def take_jobs(walk: Walk, service: Service) -> None:
    job_id = walk.send("create_job", 202, also={"webhook": WEBHOOK}).json()["id"]
    walk.known = {JOB: job_id}
    assert service.wait_for(job_id, lambda job: job.is_final, 120).status == "succeeded"
    for name in ("show_job", "follow_job", "fetch_output", "list_jobs"):
        walk.send(name, 200)
    [delivery] = walk.send("list_deliveries", 200).json()["data"]
    walk.known = {DELIVERY: delivery["id"]} | walk.known
    walk.send("redeliver", 202)
    walk.send("delete_job", 204)
    walk.known = {JOB: walk.send("create_job", 202, also={"steps": 2000}).json()["id"]}
    service.wait_for(walk.known[JOB], lambda job: job.status == "running", 60)
    service.wait_until(lambda: walk.http.get("/v1/queue").json()["workers"][0]["state"] == "busy")
    walk.send("show_queue", 200)
    walk.send("cancel_job", 202)
    service.wait_for(walk.known[JOB], lambda job: job.is_final, 60)
    walk.send("cancel_job", 200)


def test_every_answer_has_an_example_that_came_from_the_service(walk: Walk) -> None:
    if os.environ.get("CLIPCANVAS_RECORD"):
        ANSWERS.write_text(json.dumps(walk.answers, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
        pytest.skip("written; run it again to compare")
    for name, (_, _, operation) in walk.operations.items():
        for status, answer in operation["responses"].items():
            for kind, told in answer.get("content", {}).items():
                if kind in TOLD and status.startswith("2") and name != "fetch_output":  # a file
                    compare(told["example"], walk.answers[name][status][kind], f"{name} {status}")


def compare(told: Any, said: Any, place: str) -> None:
    name = place.rpartition("/")[2]
    if PASSING.fullmatch(name) or (" 202" in place and name in NOT_YET):
        return
    if isinstance(told, dict):
        assert told.keys() == said.keys(), place
        for name, value in told.items():
            compare(value, said[name], f"{place}/{name}")
    elif isinstance(told, list):
        assert len(told) == len(said), place
        for index, (one, other) in enumerate(zip(told, said, strict=True)):
            compare(one, other, f"{place}/{index}")
    elif isinstance(told, float):
        assert said == pytest.approx(told, abs=0.05), place
    elif isinstance(told, str) and "event: " in told:
        kinds = [sorted(re.findall("^event: .+", text, re.MULTILINE)) for text in (told, said)]
        assert kinds[0] == kinds[1], place
    elif isinstance(told, str) and told.startswith('{"'):
        compare(*([json.loads(line) for line in text.splitlines()] for text in (told, said)), place=place)
    else:
        assert told == said, place
