"""API keys: known ones pass with their scopes, and only their hashes are kept."""

import json

import pytest

from app.__main__ import make_key
from app.dependencies import ANYBODY, Forbidden, Keys, Unauthenticated, new_key
from app.settings import ApiKey, ApiSettings


def test_a_new_key_calls_with_the_entry_it_came_with() -> None:
    key, entry = new_key("shop")
    assert key not in entry
    keys = Keys([ApiKey.model_validate_json(entry)])
    assert keys.caller(f"Bearer {key}").name == "shop"
    assert keys.caller(f"bearer {key}").name == "shop"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic abc", "Bearer \ud800"]
)
def test_anything_else_is_nobody(header: str | None) -> None:
    keys = Keys([ApiKey.model_validate_json(new_key("shop")[1])])
    with pytest.raises(Unauthenticated):
        keys.caller(header)


def test_the_command_line_makes_a_key_once(capsys: pytest.CaptureFixture[str]) -> None:
    make_key("shop")
    key, _, entry = capsys.readouterr().out.partition("\n")
    assert key.startswith("cc_")
    assert key not in entry
    assert "CLIPCANVAS_API_KEYS='[{" in entry
    with pytest.raises(SystemExit, match="1 to 64"):
        make_key("not a name")


def test_without_keys_everybody_may() -> None:
    assert Keys([]).caller(None) == ANYBODY


def test_a_key_does_what_its_scopes_say() -> None:
    key, entry = new_key("shop")
    caller = Keys([ApiKey.model_validate({**json.loads(entry), "scopes": ["clip"]})]).caller(f"Bearer {key}")
    caller.require("clip")
    with pytest.raises(Forbidden, match="jobs"):
        caller.require("jobs")


def test_keys_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPCANVAS_API_KEYS", f"[{new_key('shop')[1]}]")
    assert [key.name for key in ApiSettings().api_keys] == ["shop"]
