"""A parameter of a route that is its body: parsed from JSON or a form, and documented as it is parsed."""

from typing import Annotated, Any, Literal

import pytest
from fastapi import FastAPI
from pydantic import Field
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from app.http import errors
from app.http.body import JsonBody, JsonOrForm, content_type
from app.http.fields import ItemOrItems, Label, RequestModel
from app.http.image_input import ImageData
from app.http.route_docs import FILE, FILES, TEXTS, body_readers, document_body


class Labelled(RequestModel):
    images: Annotated[list[ImageData], Field(min_length=1)]
    labels: Annotated[list[Label], Field(min_length=1)]
    top_k: int | None = None


class Items(RequestModel):
    input: ItemOrItems
    user: str | None = None


class Draw(RequestModel):
    type: Literal["draw"] = "draw"
    size: int = 1


class Index(RequestModel):
    type: Literal["index"]


def is_tar(headers: Headers) -> bool:
    return content_type(headers) == "application/x-tar"


app = FastAPI()
errors.install(app)


@app.post("/labelled")
async def labelled(body: Annotated[Labelled, JsonOrForm(aliases={"image": "images"})]) -> Any:
    return [len(body.images), body.labels, body.top_k]


@app.post("/items")
async def items(body: Annotated[Items, JsonOrForm(items="input", shown={"user": None})]) -> Any:
    return [item.text for item in body.input]


@app.post("/jobs")
async def jobs(
    body: Annotated[Draw | Index | None, JsonBody(is_streamed=is_tar, streamed={"application/x-tar": FILE})],
) -> Any:
    return type(body).__name__


@app.put("/settings")
async def settings(body: Annotated[Draw, JsonBody(optional=True)]) -> Any:
    return body.size


@pytest.fixture
def client() -> TestClient:
    return TestClient(app)


def test_a_form_fills_the_fields_that_json_has(client: TestClient) -> None:
    parts: list[tuple[str, Any]] = [
        ("image", ("a.png", b"a")),
        ("labels", (None, "cat")),
        ("image", ("b.png", b"b")),
        ("labels", (None, "dog")),
    ]
    by_form = client.post("/labelled", files=[*parts, ("top_k", (None, "2"))])
    by_json = client.post(
        "/labelled", json={"images": ["YQ==", "Yg=="], "labels": ["cat", "dog"], "top_k": 2}
    )
    assert by_form.json() == by_json.json() == [2, ["cat", "dog"], 2]
    twice = client.post("/labelled", files=[*parts, ("top_k", (None, "2")), ("top_k", (None, "3"))])
    assert (twice.status_code, twice.json()["errors"][0]["pointer"]) == (422, "#/top_k")
    strict = client.post("/labelled", json={"images": ["YQ=="], "labels": ["cat"], "top_k": "2"})
    assert strict.json()["errors"][0]["pointer"] == "#/top_k"  # text is a number in forms only


def test_texts_and_images_of_a_form_are_items_in_their_order(client: TestClient) -> None:
    parts: list[tuple[str, Any]] = [("text", (None, "a")), ("image", ("i", b"i")), ("text", (None, "b"))]
    assert client.post("/items", files=parts).json() == ["a", None, "b"]
    assert client.post("/items", json={"input": "a"}).json() == ["a"]


@pytest.mark.parametrize(
    ("body", "kind"), [({}, "Draw"), ({"type": "draw"}, "Draw"), ({"type": "index"}, "Index")]
)
def test_the_type_chooses_among_models(client: TestClient, body: Any, kind: str) -> None:
    assert client.post("/jobs", json=body).json() == kind


def test_a_streamed_body_is_left_to_the_route(client: TestClient) -> None:
    headers = {"content-type": "application/x-tar"}
    assert client.post("/jobs", content=b"tar", headers=headers).json() == "NoneType"
    unknown = client.post("/jobs", content=b"x", headers={"content-type": "text/plain"})
    assert (unknown.status_code, unknown.json()["code"]) == (415, "unsupported_media_type")
    assert "application/x-tar" in unknown.json()["detail"]


def test_an_optional_body_may_be_empty(client: TestClient) -> None:
    assert [client.put("/settings").json(), client.put("/settings", json={"size": 3}).json()] == [1, 3]
    assert client.post("/labelled").json()["code"] == "malformed_body"


def test_bodies_are_documented_as_they_are_parsed() -> None:
    bodies: dict[str, Any] = {}
    for path, _, reader in body_readers(app):
        document_body(reader, bodies.setdefault(path, {}))
    contents = {path: operation["requestBody"]["content"] for path, operation in bodies.items()}
    form = contents["/labelled"]["multipart/form-data"]["schema"]
    assert form["required"] == ["image", "labels"]
    assert form["properties"] == {"image": FILES, "labels": TEXTS, "top_k": {"type": "integer"}}
    form = contents["/items"]["multipart/form-data"]["schema"]
    assert form["properties"] == {"image": FILES, "text": TEXTS}
    assert form["anyOf"] == [{"required": ["image"]}, {"required": ["text"]}]
    assert contents["/jobs"]["application/x-tar"] == {"schema": FILE}
    names = [
        choice["$ref"].rpartition("/")[2]
        for choice in contents["/jobs"]["application/json"]["schema"]["anyOf"]
    ]
    assert names == ["Draw", "Index"]
    required = {path: operation["requestBody"]["required"] for path, operation in bodies.items()}
    assert required == {"/labelled": True, "/items": True, "/jobs": True, "/settings": False}


def test_every_error_of_the_api_says_how_it_is_answered() -> None:
    kinds = errors.kinds_by_code()
    for code, kind in kinds.items():
        answer = errors.answer_of(kind.__new__(kind))
        assert (answer.code, 400 <= answer.status <= 507, answer.title[0].isupper()) == (code, True, True)
        assert kind.__doc__ or not issubclass(kind, errors.HttpProblem), "OpenAPI shows it as an example"
    assert {"overloaded", "queue_full", "invalid_request", "body_timeout"} <= kinds.keys()
