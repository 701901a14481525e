"""Collections over HTTP: images are added, found, described, listed and forgotten as the contract says."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.collections.responses import (
    ClassifyCollectionAnswer,
    CollectionAnswer,
    DuplicatesAnswer,
    ImageList,
    ImageWithVector,
    SearchAnswer,
)
from app.dependencies import new_key
from tests.support.images import b64, plain, png
from tests.support.live_api import LiveApi, StartApi, TinyClip, live_api, text_vector
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="module")
def shared(redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    store = tmp_path_factory.mktemp("store").as_uri()
    models = ["demo-photo", "demo-icons"]
    with live_api(redis_process.url, store, lambda name: TinyClip(), clip_models=models) as api:
        yield api.ready()


@pytest.fixture
def api(shared: LiveApi, redis_server: RedisServer) -> LiveApi:
    """One API for all tests here, on a Redis that is empty before each."""
    return shared


COLORS = {"red": 1980, "green": 1990, "blue": 2000, "yellow": 2010, "gray": 2020}


def make(api: LiveApi, name: str = "colors", **fields: Any) -> dict[str, Any]:
    answer = api.http.put(f"/v1/collections/{name}", json=fields)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def fill(api: LiveApi, name: str = "colors") -> None:
    images = [
        {"id": color, "image": b64(plain(color)), "metadata": {"year": year, "kind": color}}
        for color, year in COLORS.items()
    ]
    answer = api.http.post(f"/v1/collections/{name}/images", json={"images": images})
    assert answer.status_code == 200, answer.text


def search(api: LiveApi, name: str = "colors", **body: Any) -> list[Any]:
    answer = api.http.post(f"/v1/collections/{name}/search", json=body)
    assert answer.status_code == 200, answer.text
    SearchAnswer.model_validate(answer.json())
    return list(answer.json()["data"])


def ids(hits: list[Any]) -> list[str]:
    return [hit["id"] for hit in hits]


def vector_of(clip: TinyClip, color: str) -> np.ndarray[Any, Any]:
    picture = Image.open(io.BytesIO(plain(color))).convert("RGB")
    return clip.encode_images(clip.preprocess(picture)[None])[0]


def test_a_collection_is_made_once_and_keeps_what_it_is_bound_to(api: LiveApi) -> None:
    path = "/v1/collections/colors"
    made = CollectionAnswer.model_validate(make(api, m=8, quantization="none"))
    assert (made.model, made.dimension, made.count, made.m) == ("demo-photo", 48, 0, 8)
    again = api.http.put(path)  # without a body
    assert (again.status_code, again.json()) == (200, api.http.get(path).json())
    assert api.http.put(path, json={"model": "demo-photo", "m": 8}).status_code == 200
    for other in ({"m": 9}, {"quantization": "q8"}, {"thumbnails": True}, {"model": "demo-icons"}):
        answer = api.http.put(path, json=other)
        assert (answer.status_code, answer.json()["code"]) == (409, "collection_exists"), other
    assert api.http.put("/v1/collections/new", json={"model": "other"}).json()["code"] == "model_not_found"
    assert ids_of_list(api) == ["colors"]
    assert api.http.delete(path).status_code == 204
    assert [api.http.get(path).status_code, api.http.delete(path).status_code] == [404, 404]
    assert ids_of_list(api) == []


def ids_of_list(api: LiveApi, **headers: str) -> list[str]:
    return [entry["name"] for entry in api.http.get("/v1/collections", headers=headers).json()["data"]]


def test_collections_are_listed_by_name(api: LiveApi) -> None:
    for name in ("b", "a-2", "a", "A.1"):
        make(api, name)
    assert ids_of_list(api) == ["A.1", "a", "a-2", "b"]


def test_a_picture_is_found_by_itself_by_its_vector_and_by_text(api: LiveApi, tiny_clip: TinyClip) -> None:
    make(api, quantization="none")
    fill(api)
    [first, *_] = hits = search(api, query={"image": b64(plain("red"))})
    assert (first["id"], first["metadata"]) == ("red", {"year": 1980, "kind": "red"})
    assert first["similarity"] == pytest.approx(1, abs=1e-4)
    rows = {color: vector_of(tiny_clip, color) for color in COLORS}
    cosines = {color: float(row @ rows["red"]) for color, row in rows.items()}
    assert ids(hits) == sorted(cosines, key=lambda color: -cosines[color])
    for hit in hits:
        assert hit["similarity"] == pytest.approx(cosines[hit["id"]], abs=1e-4)
    assert search(api, query={"vector": (3 * rows["red"]).tolist()}) == hits
    packed = base64.b64encode(rows["red"].astype("<f4").tobytes()).decode()
    assert search(api, query={"vector": packed}) == hits
    by_text = search(api, query="a fox", top_k=1)
    nearest = max(rows, key=lambda color: float(rows[color] @ text_vector("a fox")))
    assert ids(by_text) == [nearest]
    assert search(api, query={"text": "a fox"}, top_k=1) == by_text


def test_an_image_of_the_collection_finds_the_others(api: LiveApi) -> None:
    make(api)
    fill(api)
    hits = search(api, query={"id": "red"}, top_k=4)
    assert sorted(ids(hits)) == ["blue", "gray", "green", "yellow"]
    assert ids(search(api, query=[{"id": "red"}, {"id": "green"}]))[0] == "yellow"


def test_weights_pull_and_push(api: LiveApi, tiny_clip: TinyClip) -> None:
    make(api, quantization="none")
    fill(api)
    rows = {color: vector_of(tiny_clip, color) for color in COLORS}
    parts = [{"image": b64(plain("yellow"))}, {"image": b64(plain("red")), "weight": -0.5}, {"text": "a fox"}]
    total = rows["yellow"] - 0.5 * rows["red"] + text_vector("a fox")
    cosines = {color: float(row @ total / np.linalg.norm(total)) for color, row in rows.items()}
    for hit in search(api, query=parts):
        assert hit["similarity"] == pytest.approx(cosines[hit["id"]], abs=1e-4)
    nothing = [{"text": "a fox"}, {"text": "a fox", "weight": -1}]
    answer = api.http.post("/v1/collections/colors/search", json={"query": nothing})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "empty_query")


def test_several_queries_are_answered_as_each_alone(api: LiveApi) -> None:
    make(api)
    fill(api)
    queries = [{"image": b64(plain("red"))}, "a fox", [{"id": "blue"}, {"text": "a hen", "weight": 0.1}]]
    together = search(api, queries=queries, top_k=3)
    assert [entry["index"] for entry in together] == [0, 1, 2]
    assert [entry["data"] for entry in together] == [search(api, query=query, top_k=3) for query in queries]


def test_filters_least_similarity_and_top_k_narrow_the_answer(api: LiveApi) -> None:
    make(api)
    fill(api)
    query = {"image": b64(plain("red"))}
    for expression, found in (
        (".year > 1995", {"blue", "yellow", "gray"}),
        ('.year >= 2000 and .kind != "gray"', {"blue", "yellow"}),
        ('.kind in ["red", "green"]', {"red", "green"}),
        (".missing == 1", set()),
    ):
        assert set(ids(search(api, query=query, filter=expression))) == found, expression
        assert set(ids(search(api, query=query, filter=expression, exact=True))) == found, expression
    hits = search(api, query=query)
    assert search(api, query=query, min_similarity=hits[1]["similarity"]) == hits[:2]
    assert search(api, query=query, top_k=2, effort=500) == hits[:2]
    assert search(api, query=query, exact=True) == hits


@pytest.mark.parametrize("expression", [".year >", "year", "((", ".a.b > 1", '.kind == "red', "x" * 999])
def test_a_filter_that_is_no_expression_is_refused(api: LiveApi, expression: str) -> None:
    make(api)
    fill(api)
    answer = api.http.post("/v1/collections/colors/search", json={"query": "a", "filter": expression})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_filter")
    assert answer.json()["errors"][0]["pointer"] == "#/filter"


def test_the_same_id_replaces_and_an_id_is_made_of_the_file(api: LiveApi) -> None:
    make(api)
    path = "/v1/collections/colors/images"
    first = api.http.post(path, json={"images": [{"id": "x", "image": b64(plain("red"))}]}).json()
    assert first["data"] == [{"id": "x", "created": True}]
    body = {"images": [{"id": "x", "image": b64(plain("blue")), "metadata": {"a": 1}}]}
    assert api.http.post(path, json=body).json()["data"] == [{"id": "x", "created": False}]
    [hit] = search(api, query={"image": b64(plain("blue"))})
    assert (hit["id"], hit["metadata"], hit["similarity"]) == ("x", {"a": 1}, pytest.approx(1, abs=0.01))
    no_id = {"images": [{"image": b64(plain("green"))}]}
    [made] = api.http.post(path, json=no_id).json()["data"]
    [again] = api.http.post(path, files={"image": plain("green")}).json()["data"]
    assert (made["created"], again) == (True, {"id": made["id"], "created": False})
    assert api.http.get("/v1/collections/colors").json()["count"] == 2


def test_a_form_adds_and_searches_as_json_does(api: LiveApi) -> None:
    make(api)
    parts: list[tuple[str, Any]] = [
        ("image", ("a.png", plain("red"))),
        ("id", (None, "red")),
        ("metadata", (None, '{"year": 1980}')),
        ("image", ("b.png", plain("blue"))),
        ("source_url", (None, "https://example.com/b.png")),
    ]
    answer = api.http.post("/v1/collections/colors/images", files=parts)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0] == {"id": "red", "created": True}
    asked: list[tuple[str, Any]] = [
        ("image", ("x", plain("red"))),
        ("top_k", (None, "1")),
        ("filter", (None, ".year > 1")),
    ]
    [hit] = api.http.post("/v1/collections/colors/search", files=asked).json()["data"]
    assert (hit["id"], hit["metadata"]) == ("red", {"year": 1980})
    [other] = [hit for hit in search(api, query="a") if hit["id"] != "red"]
    assert other["source_url"] == "https://example.com/b.png"
    early = api.http.post(
        "/v1/collections/colors/images", files=[("id", (None, "x")), ("image", ("a", plain("red")))]
    )
    assert (early.status_code, early.json()["errors"][0]["code"]) == (422, "misplaced_field")


def test_images_are_listed_shown_described_and_deleted(api: LiveApi) -> None:
    make(api)
    fill(api)
    path = "/v1/collections/colors/images"
    listed: list[str] = []
    after: dict[str, Any] = {}
    while True:
        page = ImageList.model_validate(api.http.get(path, params={"limit": 2, **after}).json())
        listed += [image.id for image in page.data]
        if not page.has_more:
            break
        after = {"after": page.last_id}
    assert listed == sorted(COLORS)
    shown = ImageWithVector.model_validate(api.http.get(f"{path}/red?vector=true").json())
    assert shown.metadata == {"year": 1980, "kind": "red"}
    assert np.linalg.norm(shown.vector or []) == pytest.approx(1, abs=1e-5)
    described = api.http.patch(f"{path}/red", json={"metadata": {"kind": "warm"}})
    assert described.json()["metadata"] == {"kind": "warm"}
    assert ids(search(api, query="a", filter='.kind == "warm"')) == ["red"]
    assert api.http.delete(f"{path}/red").status_code == 204
    for method, body in (("GET", None), ("DELETE", None), ("PATCH", {"metadata": {}})):
        answer = api.http.request(method, f"{path}/red", json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "image_not_found")
    assert api.http.get("/v1/collections/colors").json()["count"] == 4
    assert "red" not in ids(search(api, query={"image": b64(plain("red"))}))


@pytest.mark.parametrize("image_id", ["a/b c/d.jpg", "ü-猫", "100%", "a?b#c", "x" * 256])
def test_ids_may_be_file_names_in_any_language(api: LiveApi, image_id: str) -> None:
    make(api, thumbnails=True)
    path = "/v1/collections/colors/images"
    body = {"images": [{"id": image_id, "image": b64(plain("red")), "metadata": {"name": image_id}}]}
    assert api.http.post(path, json=body).status_code == 200
    quoted = httpx.URL(path).raw_path.decode() + "/" + "".join(f"%{byte:02X}" for byte in image_id.encode())
    assert api.http.get(quoted).json()["metadata"] == {"name": image_id}
    [hit] = search(api, query="a", filter=f'.name == "{image_id}"')
    assert hit["id"] == image_id
    assert api.http.get(hit["thumbnail_url"]).status_code == 200
    assert api.http.delete(quoted).status_code == 204


@pytest.mark.parametrize("image_id", ["", "a//b", "../x", "a/./b", "/a", "a/", "a\nb", "x" * 257, "\x00"])
def test_ids_that_no_path_can_name_are_refused(api: LiveApi, image_id: str) -> None:
    make(api)
    body = {"images": [{"id": image_id, "image": b64(plain("red"))}]}
    answer = api.http.post("/v1/collections/colors/images", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/images/0/id")


@pytest.mark.parametrize(
    ("image", "pointer"),
    [
        ({"image": None}, "#/images/0"),
        ({"vector": [1.0]}, "#/images/0"),
        ({"image": None, "vector": [1.0, 2.0]}, "#/images/0/vector"),
        ({"image": None, "vector": [0.0] * 48}, "#/images/0/vector"),
        ({"image": None, "vector": "???"}, "#/images/0/vector"),
        ({"image": None, "vector": ["1"] * 48}, "#/images/0/vector"),
        ({"image": None, "vector": b64(np.full(48, np.nan, "<f4").tobytes())}, "#/images/0/vector"),
        ({"image": "!!"}, "#/images/0/image"),
        ({"metadata": {"a": {"b": 1}}}, "#/images/0/metadata"),
        ({"metadata": {"a": [[1]]}}, "#/images/0/metadata"),
        ({"metadata": {"$url": "x"}}, "#/images/0/metadata"),
        ({"metadata": {"a b": 1}}, "#/images/0/metadata"),
        ({"metadata": {f"n{n}": 1 for n in range(65)}}, "#/images/0/metadata"),
        ({"metadata": []}, "#/images/0/metadata"),
        ({"source_url": "javascript:alert(1)"}, "#/images/0/source_url"),
        ({"name": "x"}, "#/images/0/name"),
    ],
)
def test_a_bad_image_is_refused_and_nothing_is_added(
    api: LiveApi, image: dict[str, Any], pointer: str
) -> None:
    make(api)
    good = {"image": b64(plain("red"))}
    bad = {name: value for name, value in {**good, **image}.items() if value is not None}
    answer = api.http.post("/v1/collections/colors/images", json={"images": [bad, good]})
    assert answer.status_code in (415, 422), answer.text
    assert pointer in [fault["pointer"] for fault in answer.json()["errors"]], answer.text
    assert api.http.get("/v1/collections/colors").json()["count"] == 0


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#"),
        ({"query": "a", "queries": ["b"]}, "#"),
        ({"query": []}, "#/query"),
        ({"query": {}}, "#/query/0"),
        ({"query": {"text": "a", "id": "b"}}, "#/query/0"),
        ({"query": {"id": "nobody"}}, "#/query/0/id"),
        ({"query": {"vector": [1.0]}}, "#/query/0"),
        ({"query": {"text": "a", "weight": 1000}}, "#/query/0/weight"),
        ({"query": "a", "top_k": 0}, "#/top_k"),
        ({"query": "a", "min_similarity": 2}, "#/min_similarity"),
        ({"query": "a", "limit": 3}, "#/limit"),
        ({"queries": ["a", {"image": "!!"}]}, "#/queries/1/0"),
    ],
)
def test_a_bad_search_is_refused_with_its_place(api: LiveApi, body: dict[str, Any], pointer: str) -> None:
    make(api)
    fill(api)
    answer = api.http.post("/v1/collections/colors/search", json=body)
    assert answer.status_code == 422, answer.text
    assert pointer in [fault["pointer"] for fault in answer.json()["errors"]], answer.text


LIMITS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("search", {"query": "a", "top_k": 1001}, "1001 images found (top_k); at most 1000"),
    ("search", {"queries": ["a"] * 65}, "65 queries; at most 64"),
    ("search", {"query": ["a"] * 17}, "17 parts of a query; at most 16"),
    ("search", {"query": "a", "filter": "1" * 1001}, "1001 characters in a filter; at most 1000"),
    ("search", {"query": "a", "effort": 10_001}, "10001 candidates (effort); at most 10000"),
    ("search", {"query": "x" * 2001}, "2001 characters in a text; at most 2000"),
    ("search", {"query": "a", "exact": True}, "5 images to look at exactly; at most 4"),
    ("classify", {"labels": ["a"]}, "5 images to classify; at most 4"),
    ("images", {"images": [{"image": "x"}] * 65}, "65 images; at most 64"),
    ("images", {"images": [{"vector": [1] * 48}] * 71}, "71 images with vectors; at most 70"),
    (
        "images",
        {"images": [{"image": "x", "metadata": {"a": "x" * 5000}}]},
        "bytes of metadata; at most 4096",
    ),
)


def test_a_limit_is_told_with_its_number(start_api: StartApi, tiny_clip: TinyClip) -> None:
    api = start_api(max_scanned_images=4, max_vectors=70).ready()
    make(api)
    images = [{"id": str(n), "vector": [float(n + 1), *[1.0] * 47]} for n in range(5)]
    assert api.http.post("/v1/collections/colors/images", json={"images": images}).is_success
    tiny_clip.batches.clear()
    for path, body, words in LIMITS:
        answer = api.http.post(f"/v1/collections/colors/{path}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "limit_exceeded"), answer.text
        assert words in answer.json()["detail"]
    assert not tiny_clip.batches, "nothing was encoded"


def test_a_key_has_so_many_collections_and_a_collection_so_many_images(start_api: StartApi) -> None:
    api = start_api(max_collections_per_key=2, max_collection_images=3).ready()
    make(api, "a")
    make(api, "b")
    third = api.http.put("/v1/collections/c")
    assert (third.status_code, third.json()["detail"]) == (422, "3 collections; at most 2 are allowed")
    fresh = [{"id": str(n), "vector": [float(n + 1), *[1.0] * 47]} for n in range(4)]
    answer = api.http.post("/v1/collections/a/images", json={"images": fresh})
    assert (answer.status_code, answer.json()["code"]) == (507, "collection_full")
    assert api.http.get("/v1/collections/a").json()["count"] == 3
    replaced = api.http.post("/v1/collections/a/images", json={"images": fresh[:3]})
    assert replaced.status_code == 200, "what is there may be replaced"


def test_another_key_s_collection_is_not_there(start_api: StartApi) -> None:
    keys = {name: new_key(name) for name in ("ann", "bob", "cid")}
    entries = [json.loads(entry) for _, entry in keys.values()]
    entries[2]["scopes"] = ["clip", "jobs"]
    api = start_api(api_keys=entries).ready()
    ann, bob, cid = ({"Authorization": f"Bearer {key}"} for key, _ in keys.values())
    assert api.http.put("/v1/collections/pets", headers=ann).status_code == 201
    assert api.http.get("/v1/collections/pets", headers=bob).status_code == 404
    assert api.http.delete("/v1/collections/pets", headers=bob).status_code == 404
    assert api.http.put("/v1/collections/pets", headers=bob).status_code == 201, "a name for each key"
    body = {"images": [{"id": "x", "image": b64(plain("red"))}]}
    assert api.http.post("/v1/collections/pets/images", json=body, headers=ann).status_code == 200
    found = api.http.post("/v1/collections/pets/search", json={"query": {"id": "x"}}, headers=bob)
    assert found.json()["errors"][0]["code"] == "image_not_found"
    assert [api.http.get("/v1/collections/pets", headers=who).json()["count"] for who in (ann, bob)] == [1, 0]
    refused = api.http.get("/v1/collections", headers=cid)
    assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")


def test_what_belongs_to_another_model_is_refused(api: LiveApi) -> None:
    make(api, model="demo-icons")
    vector = [1.0] * 48
    for path, body in (
        ("search", {"query": {"vector": vector}, "model": "demo-photo"}),
        ("images", {"images": [{"vector": vector}], "model": "demo-photo"}),
    ):
        answer = api.http.post(f"/v1/collections/colors/{path}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "model_mismatch")
        assert api.http.post(
            f"/v1/collections/colors/{path}", json={**body, "model": "demo-icons"}
        ).is_success


def test_all_of_a_collection_is_classified_at_once(api: LiveApi, tiny_clip: TinyClip) -> None:
    make(api, quantization="none")
    fill(api)
    labels, template = ["fox", "hen", "owl"], "a {label}."
    answer = api.http.post(
        "/v1/collections/colors/classify", json={"labels": labels, "templates": [template], "top_k": 2}
    )
    said = ClassifyCollectionAnswer.model_validate(answer.json())
    texts = np.stack([text_vector(template.format(label=label)) for label in labels])
    best = {color: int((texts @ vector_of(tiny_clip, color)).argmax()) for color in COLORS}
    assert (said.images, said.unlabeled) == (5, 0)
    for index, entry in enumerate(said.data):
        mine = [color for color, label in best.items() if label == index]
        assert (entry.label, entry.count) == (labels[index], len(mine))
        assert {example.id for example in entry.examples} <= set(mine)
        assert len(entry.examples) == min(2, len(mine))
        chances = [example.probability for example in entry.examples]
        assert chances == sorted(chances, reverse=True)
    strict = api.http.post(
        "/v1/collections/colors/classify", json={"labels": labels, "min_probability": 1.0}
    ).json()
    assert strict["unlabeled"] + sum(entry["count"] for entry in strict["data"]) == 5


def test_duplicates_are_told_once(api: LiveApi) -> None:
    make(api)
    fill(api)
    same = [{"id": name, "image": b64(plain("red"))} for name in ("red-2", "a-red")]
    api.http.post("/v1/collections/colors/images", json={"images": same})
    path = "/v1/collections/colors/duplicates"
    said = DuplicatesAnswer.model_validate(api.http.get(path, params={"threshold": 0.999}).json())
    assert {entry.id: sorted(other.id for other in entry.duplicates) for entry in said.data} == {
        "a-red": ["red", "red-2"],
        "red": ["red-2"],
    }
    assert (said.has_more, said.last_id) == (False, "yellow")
    first = api.http.get(path, params={"threshold": 0.999, "limit": 1}).json()
    assert (first["has_more"], first["last_id"], len(first["data"])) == (True, "a-red", 1)


def test_thumbnails_are_kept_where_the_collection_says_so(start_api: StartApi) -> None:
    api = start_api(thumbnail_side=16).ready()
    make(api, "small", thumbnails=True)
    make(api, "none")
    body = {"images": [{"id": "red", "image": b64(plain("red", (64, 32)))}]}
    for name in ("small", "none"):
        api.http.post(f"/v1/collections/{name}/images", json=body)
    url = api.http.get("/v1/collections/small/images/red").json()["thumbnail_url"]
    file = api.http.get(url)
    picture = Image.open(io.BytesIO(file.content))
    assert (file.headers["content-type"], picture.size) == ("image/jpeg", (32, 16))
    assert api.http.get(url, headers={"If-None-Match": file.headers["etag"]}).status_code == 304
    assert api.http.get("/v1/collections/none/images/red").json()["thumbnail_url"] is None
    missing = api.http.get("/v1/collections/none/thumbnails/red")
    assert (missing.status_code, missing.json()["code"]) == (404, "thumbnail_not_found")
    api.http.delete("/v1/collections/small/images/red")
    assert api.http.get(url).status_code == 404


def test_a_collection_moves_to_another_server_by_its_export(api: LiveApi) -> None:
    make(api, quantization="none")
    fill(api)
    api.http.patch("/v1/collections/colors/images/red", json={"source_url": "https://example.com/red.png"})
    head, *lines = map(json.loads, api.http.get("/v1/collections/colors/export").text.splitlines())
    assert (head["name"], head["count"], len(lines)) == ("colors", 5, 5)
    make(api, "copy", **{name: head[name] for name in ("model", "quantization", "m", "ef_construction")})
    answer = api.http.post("/v1/collections/copy/images", json={"images": lines, "model": head["model"]})
    assert answer.status_code == 200, answer.text
    query = {"image": b64(plain("yellow"))}
    assert search(api, "copy", query=query) == search(api, query=query)


def test_thumbnails_are_embedded_anew_for_another_model(api: LiveApi) -> None:
    make(api, thumbnails=True)
    make(api, "icons", model="demo-icons", thumbnails=True)
    fill(api)
    vector = api.http.get("/v1/collections/colors/images/red?vector=true").json()["vector"]
    api.http.post("/v1/collections/colors/images", json={"images": [{"id": "bare", "vector": vector}]})
    path, after, skipped = "/v1/collections/icons/reindex", None, []
    while True:
        body = {"source": "colors", "limit": 2, **({"after": after} if after else {})}
        said = api.http.post(path, json=body).json()
        skipped += [entry["id"] for entry in said["skipped"]]
        after = said["last_id"]
        if not said["has_more"]:
            break
    assert skipped == ["bare"]
    assert api.http.get("/v1/collections/icons").json()["count"] == 5
    [hit] = search(api, "icons", query={"image": b64(plain("red"))}, top_k=1)
    assert (hit["id"], hit["metadata"]["year"]) == ("red", 1980)
    assert api.http.get(hit["thumbnail_url"]).status_code == 200


@pytest.mark.parametrize("quantization", ["q8", "none", "binary"])
def test_each_quantization_finds_its_own_and_tells_its_vectors(
    api: LiveApi, tiny_clip: TinyClip, quantization: str
) -> None:
    make(api, quantization=quantization)
    pictures = {}
    rng = np.random.default_rng(3)
    for n in range(40):
        pixels = rng.integers(0, 255, (4, 4, 3), np.uint8)
        pictures[str(n)] = png(Image.fromarray(pixels).resize((16, 16), Image.Resampling.NEAREST))
    images = [{"id": name, "image": b64(data)} for name, data in pictures.items()]
    assert api.http.post("/v1/collections/colors/images", json={"images": images}).is_success
    found = search(api, queries=[{"image": b64(data)} for data in pictures.values()], top_k=1)
    if quantization != "binary":  # TinyClip's numbers are all positive: their signs tell nothing
        assert [entry["data"][0]["id"] for entry in found] == list(pictures)
        shown = api.http.get("/v1/collections/colors/images/7?vector=true").json()["vector"]
        picture = Image.open(io.BytesIO(pictures["7"]))
        real = tiny_clip.encode_images(tiny_clip.preprocess(picture)[None])[0]
        assert float(np.array(shown) @ real) > 0.9999
    else:
        assert all(entry["data"] for entry in found)


def test_every_route_of_collections_is_described(api: LiveApi) -> None:
    document = api.http.get("/openapi.json").json()
    paths = {path: operations for path, operations in document["paths"].items() if "collections" in path}
    assert len(paths) == 10
    for operations in paths.values():
        for operation in operations.values():
            assert operation["description"]
            assert {"401", "403", "503"} <= operation["responses"].keys()


@pytest.mark.parametrize(("expression", "passing"), [(".n == 7", 3), (".n < 500", 1500)])
def test_a_filter_finds_what_passes_it_be_it_little_or_much(
    api: LiveApi, expression: str, passing: int
) -> None:
    make(api)
    rows = np.random.default_rng(0).normal(size=(3000, 48))
    for start in range(0, 3000, 1000):
        images = [
            {"id": f"i{i:04}", "vector": rows[i].tolist(), "metadata": {"n": i % 1000}}
            for i in range(start, start + 1000)
        ]
        assert api.http.post("/v1/collections/colors/images", json={"images": images}).is_success
    query = {"vector": rows[1234].tolist()}
    found = search(api, query=query, filter=expression, top_k=10)
    exact = search(api, query=query, filter=expression, top_k=10, exact=True)
    assert len(found) == min(10, passing)
    assert len({hit["id"] for hit in found} & {hit["id"] for hit in exact}) >= 0.9 * len(exact)
