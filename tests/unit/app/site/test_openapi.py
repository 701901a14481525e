"""The OpenAPI document is valid, and says of each route what a client's author needs."""

import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from app.main import create_app
from app.settings import ApiSettings

BYTES = re.compile("image/|video/|application/(zip|x-npy)")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(ApiSettings(compat=("weaviate", "immich"))).openapi()


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_it_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_each_operation_has_a_name_that_makes_a_method_and_says_what_it_does(
    operations: list[dict[str, Any]],
) -> None:
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names) > 35
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", name) for name in names)
    assert all(operation["summary"] and operation["description"] for operation in operations)


def test_what_is_sent_and_answered_has_an_example_that_its_schema_takes(
    document: dict[str, Any], operations: list[dict[str, Any]]
) -> None:
    def check(schema: dict[str, Any], example: Any) -> None:
        Draft202012Validator({**schema, "components": document["components"]}).validate(example)

    for operation in operations:
        for kind, body in operation.get("requestBody", {}).get("content", {}).items():
            if kind != "application/x-tar":
                check(body["schema"], body["example"])
        for parameter in operation.get("parameters", []):
            assert "example" in parameter or parameter["in"] != "path", (operation["operationId"], parameter)
            if "example" in parameter:
                check(parameter["schema"], parameter["example"])
        for status, answer in operation["responses"].items():
            for kind, told in answer.get("content", {}).items():
                if kind == "application/problem+json":
                    [name] = told["examples"]
                    value = document["components"]["examples"][name]["value"]
                    check(told["schema"], value)
                    assert (value["status"], value["code"]) == (int(status), name)
                elif not BYTES.match(kind) and operation["operationId"] != "fetch_output" and status != "503":
                    check(told.get("schema", {}), told["example"])


def test_each_error_is_told_as_a_problem(operations: list[dict[str, Any]]) -> None:
    for operation in operations:
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and operation["operationId"] != "readyz" and status != "416":
                assert list(answer["content"]) == ["application/problem+json"], operation["operationId"]
